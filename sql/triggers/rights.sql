-- Who may do what. Run as realtime_owner, last, and again after any other file has run.
--
-- Invariants: an application's role can reach schema realtime and call position(), nothing else: it cannot read the
-- event log (all rows of all tenants), nor call or attach a capture function. Who may see what is written by realtime_owner alone.
DO $do$
DECLARE
  f regprocedure;
BEGIN
  FOR f IN SELECT p.oid FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'realtime'::regnamespace AND p.proowner = 'realtime_owner'::regrole
    AND pg_catalog.has_function_privilege('public', p.oid, 'EXECUTE') LOOP
    EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', f);
  END LOOP;
END $do$;
GRANT USAGE ON SCHEMA realtime TO PUBLIC;
GRANT EXECUTE ON FUNCTION realtime.position() TO PUBLIC;
-- All of them, so that a member may dump the database.
GRANT SELECT ON ALL TABLES IN SCHEMA realtime TO realtime_reader;
GRANT SELECT ON ALL SEQUENCES IN SCHEMA realtime TO realtime_reader;
GRANT EXECUTE ON FUNCTION realtime.canonical(int, text, text), realtime.spelling(oid, int, oid), realtime.spelled("char", text),
  realtime.spelled_interval(text), realtime.plain_table(oid), realtime.plain_types(oid[]), realtime.shown(oid), realtime.check(), realtime.incarnate(), realtime.turn(interval, bigint, pg_snapshot),
  realtime.slot(), realtime.fuse(), realtime.has_room(int), realtime.event_log_bytes(), realtime.mind_fuse(bigint, bigint, int), realtime.try_to_lead(), realtime.strangers() TO realtime_reader;
-- The DBA's own (policies.sql), where there is one.
DO $do$
BEGIN
  IF to_regprocedure('realtime.may_subscribe(text, jsonb)') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION realtime.may_subscribe(text, jsonb) TO realtime_reader;
  END IF;
END $do$;
