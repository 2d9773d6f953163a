-- The fuse: where the event log is far over its limit, or its disk is full, capture leaves changes out, so that no write of
-- the application fails for capture's sake. Run as realtime_owner. docs/decisions/0013-the-fuse.md has the reasons.
--
-- The fuse is open where realtime.current_slot is below 0: capture then returns at once. realtime.fuse holds the number
-- of the newest opening, and event_log_state.healed that of the last one that is over. Where they differ, what is
-- visible may lack changes: nobody may mint a position from it, and every position from before is expired.
--
-- Invariants
-- - The number is set before the slot, and nothing of it is part of a transaction. So whoever sees a transaction that left
--   something out, and looks at the number after his snapshot was taken, finds a number that is not healed.
-- - Writers and servers may open the fuse. realtime.mind_fuse() alone closes it, one at a time, in steps that each are a transaction,
--   so that a server may die between any two of them, and another goes on.
-- - It is healed when every transaction has ended that may have seen it open, and then the floor is a snapshot that
--   sees all of them. Whoever reads a sequence holds a lock on it until his transaction ends, so it is known who they are.
-- - A number is never used again.
-- - While it is open the event log is emptied without regard to who has read it, together with a floor that no position contains.

-- The number of the newest opening: a WAL position, and 1 where the disk was full. 0: none so far.
CREATE OR REPLACE FUNCTION realtime.fuse() RETURNS bigint LANGUAGE sql VOLATILE AS
  $f$SELECT coalesce(pg_catalog.pg_sequence_last_value('realtime.fuse_opened'), 0)$f$;

CREATE OR REPLACE FUNCTION realtime.open_fuse(disk bool) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  current int := realtime.slot();
BEGIN
  IF current >= 0 THEN
    PERFORM setval('realtime.fuse_opened', 2 * (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint + disk::int);
    PERFORM setval('realtime.current_slot', current - 4);
  END IF;
END $f$;

-- Whether the database's disk has room for so much: a temporary file is written, which is gone before it reaches the disk.
CREATE OR REPLACE FUNCTION realtime.has_room(kb int) RETURNS bool LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET work_mem = '64kB' SET temp_tablespaces = '' AS $f$
BEGIN
  PERFORM FROM (WITH w AS MATERIALIZED (SELECT repeat('x', 8000) FROM generate_series(0, kb / 8)) SELECT count(*) FROM w) c;
  RETURN true;
EXCEPTION
  WHEN disk_full THEN
    RETURN false;
  WHEN OTHERS THEN   -- temp_file_limit, say, which tells nothing
    RETURN true;
END $f$;

-- A writer's look, by chance once in some 512 rows: the slot that his row goes to. Every second look asks whether the disk has room.
CREATE OR REPLACE FUNCTION realtime.looked_slot() RETURNS smallint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  slot int := realtime.slot();
BEGIN
  IF slot >= 0 AND pg_total_relation_size(format('realtime.events_%s', slot)) >= pg_sequence_last_value('realtime.fuse_room') THEN
    PERFORM realtime.open_fuse(false);
  ELSIF slot >= 0 AND pg_lsn_hash(pg_current_wal_insert_lsn()) & 512 = 0 AND NOT realtime.has_room(80) THEN
    PERFORM realtime.open_fuse(true);
  END IF;
  RETURN realtime.slot();
EXCEPTION WHEN OTHERS THEN
  RETURN realtime.slot();
END $f$;

-- Which partition the next row goes to. Never null, or the write would fail: a copy of the schema alone has a sequence without a value.
CREATE OR REPLACE FUNCTION realtime.next_slot() RETURNS smallint LANGUAGE sql VOLATILE AS
  $f$SELECT CASE WHEN pg_catalog.pg_lsn_hash(pg_catalog.pg_current_wal_insert_lsn()) OPERATOR(pg_catalog.&) 511 OPERATOR(pg_catalog.=) 0 THEN realtime.looked_slot()
    ELSE coalesce(pg_catalog.pg_sequence_last_value('realtime.current_slot'), 0)::smallint END$f$;

-- Rows of a statement in whose midst the fuse has opened.
CREATE OR REPLACE FUNCTION realtime.leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE OR REPLACE TRIGGER leave_out BEFORE INSERT ON realtime.events_left_out FOR EACH ROW EXECUTE FUNCTION realtime.leave_out();

CREATE OR REPLACE FUNCTION realtime.event_log_bytes() RETURNS bigint[] LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT array_agg(pg_total_relation_size(format('realtime.events_%s', i)) ORDER BY i) FROM generate_series(0, 3) i
$f$;

-- A megabyte more of ballast; false where there is no room for it. One row a page, and rolled back: the pages stay.
CREATE OR REPLACE FUNCTION realtime.grow_ballast() RETURNS bool LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  INSERT INTO realtime.ballast SELECT '', '', '', '', '', '', '' FROM generate_series(1, 128);
  RAISE EXCEPTION 'written' USING ERRCODE = 'RT001';
EXCEPTION
  WHEN SQLSTATE 'RT001' THEN
    RETURN true;
  WHEN disk_full THEN
    RETURN false;
END $f$;

-- While the fuse is whole: opens it where it has to (the event log is too large, or the disk has no room for `kb`), keeps the ballast,
-- and tells writers how far their partition may grow.
CREATE OR REPLACE FUNCTION realtime.watch_fuse(fuse_bytes bigint, ballast bigint, kb int) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  sizes bigint[] := realtime.event_log_bytes(); total bigint := (SELECT sum(b) FROM unnest(sizes) b); room bigint; kept bigint := pg_relation_size('realtime.ballast');
BEGIN
  room := greatest(fuse_bytes - total + sizes[realtime.slot() + 1], fuse_bytes / 4);
  IF abs(room - pg_sequence_last_value('realtime.fuse_room')) > fuse_bytes / 16 THEN
    PERFORM setval('realtime.fuse_room', room);
  END IF;
  IF total >= fuse_bytes THEN
    PERFORM realtime.open_fuse(false);
    RETURN 'opened';
  ELSIF kept > ballast + 2097152 THEN
    TRUNCATE realtime.ballast;
  ELSIF NOT realtime.has_room(kb) OR kept < ballast AND NOT realtime.grow_ballast() THEN
    PERFORM realtime.open_fuse(true);
    RETURN 'opened';
  END IF;
  RETURN NULL;
END $f$;

-- Empties what nobody's lock keeps: 'cleared'; null where there is nothing more to do.
CREATE OR REPLACE FUNCTION realtime.clear_event_log(disk bool) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  requests bigint[] := ARRAY(SELECT p.n FROM realtime.purges p WHERE p.done IS NULL); emptied bool := false; no_room bool := disk;
BEGIN
  IF NOT disk OR pg_relation_size('realtime.ballast') = 0 THEN   -- the ballast first: to empty a table takes some room
    FOR slot IN 0 .. 3 LOOP
      IF pg_relation_size(format('realtime.events_%s', slot)) > 0 THEN
        BEGIN
          EXECUTE format('LOCK TABLE ONLY realtime.events_%s IN ACCESS EXCLUSIVE MODE NOWAIT', slot);
          EXECUTE format('TRUNCATE ONLY realtime.events_%s', slot);
          emptied := true;
        EXCEPTION
          WHEN lock_not_available THEN NULL;
          WHEN disk_full THEN no_room := true;
        END;
      END IF;
    END LOOP;
  END IF;
  IF emptied THEN
    UPDATE realtime.event_log_state SET floor = realtime.floor_now();
    PERFORM realtime.note_emptied(requests, ARRAY(SELECT i FROM generate_series(0, 3) i WHERE pg_relation_size(format('realtime.events_%s', i)) = 0));
    RETURN 'cleared';
  ELSIF no_room AND pg_relation_size('realtime.ballast') > 0 THEN
    TRUNCATE realtime.ballast;
    RETURN 'cleared';
  END IF;
  RETURN NULL;
END $f$;

-- While the fuse is open: clears the event log, and closes the fuse where writers can go on in an empty partition. 'open': not yet.
-- The disk has to have room for what watch_fuse() asks for next, or it would open again at once.
CREATE OR REPLACE FUNCTION realtime.close_fuse(disk bool, fuse_bytes bigint, ballast bigint, kb int) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  free int;
BEGIN
  -- What was noted of an earlier closing is of no use, and has to be gone before this one.
  UPDATE realtime.event_log_state SET healing = NULL, waits = NULL WHERE healing IS NOT NULL;
  IF FOUND THEN
    RETURN 'cleared';
  ELSIF realtime.clear_event_log(disk) = 'cleared' THEN
    RETURN 'cleared';
  END IF;
  free := (SELECT i FROM generate_series(0, 3) i WHERE pg_relation_size(format('realtime.events_%s', i)) = 0 LIMIT 1);
  IF free IS NULL OR (SELECT sum(b) FROM unnest(realtime.event_log_bytes()) b) >= fuse_bytes / 2
    OR NOT realtime.has_room(((ballast - pg_relation_size('realtime.ballast')) / 1024)::int + greatest(kb, 4096)) THEN
    RETURN 'open';
  END IF;
  PERFORM setval('realtime.current_slot', free);
  UPDATE realtime.partitions_clock SET switched = elapsed;
  RETURN 'closed';
END $f$;

-- The transactions that have read which partition writers go on in, prepared ones too.
CREATE OR REPLACE FUNCTION realtime.slot_readers() RETURNS SETOF text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT DISTINCT l.virtualtransaction FROM pg_locks l
  WHERE l.locktype = 'relation' AND l.relation = 'realtime.current_slot'::regclass AND l.mode = 'RowExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid()
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
$f$;

-- One step, where the disk has to have room for `kb`; the leader calls it every few seconds, and again at once while it returns 'opened', 'cleared' or 'closed'. 'open' and
-- 'waiting' (for transactions that may have left something out) last. 'healed' is the end; null where all is well.
CREATE OR REPLACE FUNCTION realtime.mind_fuse(fuse_bytes bigint, ballast bigint, kb int) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $f$
DECLARE
  opened bigint; state realtime.event_log_state;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'realtime.mind_fuse() needs a READ COMMITTED transaction';
  END IF;
  PERFORM set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
  PERFORM FROM realtime.partitions_clock FOR UPDATE;   -- one at a time, and none beside a turn
  opened := realtime.fuse();
  SELECT * INTO state FROM realtime.event_log_state;
  IF opened = state.healed THEN
    RETURN realtime.watch_fuse(fuse_bytes, ballast, kb);
  ELSIF realtime.slot() < 0 THEN
    RETURN realtime.close_fuse(opened % 2 = 1, fuse_bytes, ballast, kb);
  ELSIF state.healing IS DISTINCT FROM opened THEN
    UPDATE realtime.event_log_state SET healing = opened, waits = ARRAY(SELECT realtime.slot_readers());
    RETURN 'closed';
  ELSIF state.waits && ARRAY(SELECT realtime.slot_readers()) THEN
    RETURN 'waiting';
  ELSIF realtime.slot() < 0 OR realtime.fuse() <> opened THEN   -- asked when they have ended: one of them may have opened it
    RETURN 'closed';
  END IF;
  UPDATE realtime.event_log_state SET floor = realtime.floor_now(), healed = opened, healing = NULL, waits = NULL;
  RETURN 'healed';
EXCEPTION WHEN lock_not_available THEN
  RETURN CASE WHEN realtime.slot() < 0 THEN 'open' END;
END $f$;
