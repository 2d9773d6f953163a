-- realtime.incarnate(): what the database is now: the incarnation that every position names. Run as realtime_owner;
-- the server calls it on each connect, in a transaction of its own.
--
-- Invariants: a new incarnation begins when the unlogged marker is empty (crash, promotion, copy) or the system,
-- database, marker table or timeline is another; however many call at once, they make one. Raw snapshots do not
-- outlive an incarnation; where the event log is another database's (restore, template, upgrade) its xids mean nothing here:
-- it is emptied.
CREATE OR REPLACE FUNCTION realtime.incarnate() RETURNS TABLE (n bigint, uuid uuid, tli int, sysid bigint, db oid, marker oid, recovery_end pg_lsn, fresh bool)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
#variable_conflict use_column
<<here>>
DECLARE
  sys bigint; base oid; mark oid := 'realtime.alive'::regclass; line int; last realtime.incarnation; made bigint; patience text := current_setting('lock_timeout');
BEGIN
  IF pg_is_in_recovery() THEN
    RAISE EXCEPTION 'realtime needs the primary: this is a standby' USING ERRCODE = 'read_only_sql_transaction';
  END IF;
  PERFORM set_config('synchronous_commit', 'on', true);
  here.sys := (SELECT system_identifier FROM pg_control_system());
  here.base := (SELECT oid FROM pg_database WHERE datname = current_database());
  here.line := ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int;
  FOR try IN 1 .. 2 LOOP
    RETURN QUERY SELECT i.n, i.uuid, i.tli, i.sysid, i.db, i.marker, i.recovery_end, false
      FROM realtime.alive a JOIN realtime.incarnation i ON i.n = a.n
      WHERE i.sysid = here.sys AND i.db = here.base AND i.marker = here.mark AND i.tli = here.line;
    IF FOUND THEN
      RETURN;
    END IF;
    -- A row's lock, because it takes a right. An advisory lock may be held by any role for ever, and a table's too, by PREPARE.
    PERFORM FROM realtime.leadership FOR UPDATE;
  END LOOP;
  SELECT * INTO last FROM realtime.incarnation i ORDER BY i.n DESC LIMIT 1;
  IF FOUND AND (last.sysid, last.db, last.marker) IS DISTINCT FROM (here.sys, here.base, here.mark) THEN
    PERFORM set_config('realtime.give_up', '3 s', true), realtime.take_turn();   -- before the event log, as everybody who defines watches
    BEGIN
      PERFORM set_config('lock_timeout', '500 ms', true);
      TRUNCATE realtime.events;
    EXCEPTION WHEN lock_not_available THEN   -- who dumps the copy holds it, or a role without rights (PREPARE): a later turn empties the partitions
      DELETE FROM realtime.events;
    END;
    PERFORM set_config('lock_timeout', here.patience, true);
    -- A copied sequence believes that its next values are in the WAL: a crash would give them out again.
    PERFORM setval(s, nextval(s)) FROM unnest(ARRAY['realtime.event_id', pg_get_serial_sequence('realtime.incarnation', 'n')]::regclass[]) s;
    UPDATE realtime.event_log_state SET floor = realtime.floor_now();
    -- Seen by every position from here on; earlier ones are foreign. What was restored has other oids.
    UPDATE realtime.generations g SET xid = '3', relid = coalesce((SELECT c.oid FROM pg_class c
      WHERE c.relname = g.name AND c.relnamespace = (SELECT s.oid FROM pg_namespace s WHERE s.nspname = g.schema)), g.relid);
    PERFORM realtime.settle();
  END IF;
  DELETE FROM realtime.recorded;
  INSERT INTO realtime.incarnation (sysid, db, marker, tli, recovery_end)
    VALUES (here.sys, here.base, here.mark, here.line, pg_last_wal_replay_lsn()) RETURNING realtime.incarnation.n INTO made;
  INSERT INTO realtime.alive (n) VALUES (made) ON CONFLICT (one) DO UPDATE SET n = EXCLUDED.n;
  RETURN QUERY SELECT i.n, i.uuid, i.tli, i.sysid, i.db, i.marker, i.recovery_end, true FROM realtime.incarnation i WHERE i.n = made;
END $f$;
