-- The way back: takes every table off the air and drops all that the other files made. Run by whoever migrates.
-- Invariants: no ownership of the watched tables is needed (their triggers go with the functions); anything of
-- somebody else's that depends on ours stops it with PostgreSQL's own message.
SET LOCAL client_min_messages = warning;
DO $do$
DECLARE
  f regprocedure; before text := pg_catalog.current_setting('lock_timeout');
BEGIN
  PERFORM realtime.lock_watched();
  PERFORM pg_catalog.set_config('lock_timeout', '400ms', true);   -- of a table that the migrator may not lock: no queue behind it
  FOR f IN SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'realtime' AND p.prorettype = 'pg_catalog.trigger'::regtype
  LOOP
    EXECUTE format('DROP FUNCTION %s CASCADE', f);
  END LOOP;
  PERFORM pg_catalog.set_config('lock_timeout', before, true);
END $do$;
DROP FUNCTION realtime.mind_fuse(bigint, bigint, int), realtime.slot_readers(), realtime.close_fuse(bool, bigint, bigint, int), realtime.clear_event_log(bool), realtime.watch_fuse(bigint, bigint, int),
  realtime.grow_ballast(), realtime.event_log_bytes(), realtime.next_slot(), realtime.looked_slot(), realtime.has_room(int), realtime.open_fuse(bool), realtime.fuse();
DROP PROCEDURE realtime.finish_purges(interval, bigint);
DROP FUNCTION realtime.purge(), realtime.turn_alone(pg_snapshot), realtime.turn(interval, bigint, pg_snapshot),
  realtime.note_emptied(bigint[], int[]), realtime.switch(int, interval), realtime.count_time(interval, interval, bool),
  realtime.empty(int, interval, pg_snapshot), realtime.next_floor(int, interval, pg_snapshot),
  realtime.contains(pg_snapshot, pg_snapshot), realtime.normal(pg_snapshot, xid8), realtime.sees(pg_snapshot, int);
DROP FUNCTION realtime.try_to_lead(), realtime.strangers(), realtime.leaders(), realtime.lock_holders();
DROP FUNCTION realtime.incarnate(), realtime.timelines(), realtime.position();
DROP FUNCTION realtime.check(), realtime.settle(), realtime.mend(), realtime.left_over(), realtime.follow(oid), realtime.problems(), realtime.go_on(realtime.generations, oid), realtime.owns(int, oid), realtime.located(), realtime.still_route(oid, text);
DROP FUNCTION realtime.lock_watched(), realtime.lock(regclass[]), realtime.take_turn(), realtime.try_turn(), realtime.take_locks(oid[], text), realtime.try_locks(oid[], text, interval),
  realtime.holds_others(oid[]), realtime.holders(oid[], text), realtime.lock_order(oid[]), realtime.setting(text, interval);
DROP FUNCTION realtime.recapture(), realtime.reload(regclass), realtime.watch(regclass, text[], bool), realtime.mend_triggers(realtime.generations), realtime.unwatch(regclass), realtime.drop_triggers(oid, text),
  realtime.wrong_triggers(oid, "char", bool, text, bool), realtime.normal_routes(regclass, text[]), realtime.refuse(regclass),
  realtime.begin_generation(oid, text[], "char", bool, int, bool), realtime.end_generation(int), realtime.drop_capture(text), realtime.announce(int);
DROP FUNCTION realtime.make_capture(realtime.captured), realtime.define(text), realtime.settings_source(realtime.captured), realtime.capture_source(realtime.captured, text),
  realtime.row_source(realtime.captured, text), realtime.statement_source(realtime.captured, text), realtime.update_source(realtime.captured),
  realtime.mark_source(realtime.captured, text), realtime.row_mark_source(realtime.captured, text), realtime.insert_source(realtime.captured, text, text, text, text), realtime.vals_of(realtime.captured, text),
  realtime.row_item(realtime.captured, text, text, text), realtime.missing_item(realtime.captured), realtime.json_source(realtime.captured, text, text),
  realtime.rendered_source(realtime.captured, text, text), realtime.own(realtime.captured, text), realtime.size_source(oid), realtime.sized(oid),
  realtime.vals_source(realtime.captured, bool), realtime.output(anyelement), realtime.settings(oid, text[]),
  realtime.size_limit(oid), realtime.careful_json(record), realtime.listed(regclass, text[]), realtime.plain(regclass, text),
  realtime.plain_table(oid), realtime.plain_types(oid[]), realtime.row_bytes();
DROP TYPE realtime.captured;
DROP FUNCTION realtime.differences(int[]), realtime.matters(oid, oid, text), realtime.note(int, bool, realtime.seen[]), realtime.quiet(int, xid8), realtime.is_empty(oid, oid),
  realtime.look(int[]);
DROP TYPE realtime.seen;
DROP FUNCTION realtime.triggers(oid, "char", bool, text), realtime.nests(oid), realtime.tree(oid), realtime.row_note_source(text, text), realtime.capture_triggers(text), realtime.capture_functions(text), realtime.note_source(text, text), realtime.describe(oid), realtime.type_traits(oid), realtime.form(oid), realtime.shown(oid),
  realtime.canonical(int, text, text), realtime.spelled("char", text), realtime.spelled_interval(text), realtime.spelling(oid, int, oid), realtime.json_type(oid),
 
  realtime.base_type(oid), realtime.route_text(text[]), realtime.route_columns(text), realtime.decode_name(text), realtime.encode_name(text);
DROP FUNCTION IF EXISTS realtime.may_subscribe(text, jsonb);
DROP FUNCTION realtime.rights_changed(), realtime.announce_rights(text[]), realtime.refuse_pattern(text), realtime.wrong_table_pattern(text, text);
DROP TABLE realtime.policies, realtime.revocations;
DROP TABLE realtime.ballast, realtime.leadership, realtime.created, realtime.purges, realtime.meta, realtime.recorded, realtime.partitions_clock,
  realtime.alive, realtime.incarnation, realtime.relations, realtime.generations, realtime.event_log_state, realtime.events;
DROP FUNCTION realtime.floor_now(), realtime.slot();
DROP SEQUENCE realtime.event_id, realtime.current_slot, realtime.fuse_opened, realtime.fuse_room;
