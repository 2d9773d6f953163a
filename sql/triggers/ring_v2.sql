-- realtime.purge(): rows that have to leave the log at once; and realtime.turn(), which sees to it. Run as realtime_owner,
-- after ring_v1.sql, whose sees(), normal(), contains() and ring_time() stay.
--
-- Beside the invariants of ring_v1.sql:
-- - a request is done when every partition that may hold a row written before its commit has been emptied since. All four
--   may; one that holds nothing does not. Who was still writing then holds a lock (a prepared transaction too), and waits
--   are for that lock; what he writes after the switch is later than the request, and may stay;
-- - for a request the floor becomes `published` itself, as old as the caller gives it, so that servers which are
--   no further behind than that go on;
-- - the slot goes to any empty partition, and any that may be emptied is: one that can't be stops nothing else;
-- - whatever has to be waited for here is waited for 50 ms, and less while others wait for us.

CREATE TABLE realtime.purges (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  by text NOT NULL DEFAULT session_user,
  requested timestamptz NOT NULL DEFAULT clock_timestamp(),
  slots int[] NOT NULL DEFAULT '{0,1,2,3}',   -- partitions that have not been emptied since
  done timestamptz
);

-- Values of rows have no business in the statistics, which outlive a TRUNCATE. (The partitions' too.)
ALTER TABLE realtime.events ALTER new_vals SET STATISTICS 0, ALTER old_vals SET STATISTICS 0, ALTER new SET STATISTICS 0, ALTER old SET STATISTICS 0;

-- Records a request, in the caller's transaction: the rows that it wrote itself are among those that go.
CREATE FUNCTION realtime.purge() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  made bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
  INSERT INTO realtime.purges DEFAULT VALUES RETURNING n INTO made;
  IF NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND (classid, objid, objsubid) = (1919247220, 2, 2)
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) THEN
    RAISE NOTICE 'realtime: no server leads now; the next that does will purge, or: CALL realtime.finish_purges()';
  END IF;
  RETURN made;
END $f$;

CREATE FUNCTION realtime.note_emptied(requests bigint[], emptied int[]) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $f$
  UPDATE realtime.purges p SET slots = l.rest, done = CASE WHEN l.rest = '{}' THEN clock_timestamp() END
  FROM (SELECT o.n, ARRAY(SELECT s FROM unnest(o.slots) s WHERE s <> ALL (emptied) ORDER BY s) AS rest
    FROM realtime.purges o WHERE o.n = ANY (requests)) l
  WHERE p.n = l.n AND p.slots <> l.rest
$f$;

-- The floor that emptying the partition would leave; null where it may not be emptied. Without `oldest`: whatever its age.
CREATE OR REPLACE FUNCTION realtime.next_floor(slot int, oldest interval, published pg_snapshot) RETURNS pg_snapshot LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  last xid8; top xid8; f pg_snapshot := (SELECT s.floor FROM realtime.log_state s);
BEGIN
  EXECUTE format('SELECT max(xid) FROM realtime.events_%s', slot) INTO last;
  IF last IS NULL THEN
    RETURN f;
  ELSIF published IS NULL OR NOT realtime.sees(published, slot) THEN
    RETURN NULL;
  END IF;
  top := greatest(last, (pg_snapshot_xmax(f)::text::bigint - 1)::text::xid8);
  RETURN (SELECT c.normal FROM (SELECT r.seq, r.snapshot, realtime.normal(r.snapshot, top) AS normal
      FROM (SELECT r.seq, r.snapshot FROM realtime.recorded r WHERE r.elapsed <= oldest
        UNION ALL SELECT 0, published WHERE oldest IS NULL) r
      WHERE pg_snapshot_xmax(r.snapshot) >= pg_snapshot_xmax(f)) c
    WHERE realtime.contains(c.normal, f) AND realtime.sees(c.snapshot, slot) ORDER BY c.seq LIMIT 1);
END $f$;

-- Writers go on in this partition, which is empty.
CREATE FUNCTION realtime.switch(slot int, age interval) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  UPDATE realtime.log_state s SET slot = switch.slot;
  EXECUTE format('CREATE OR REPLACE FUNCTION realtime.slot() RETURNS smallint LANGUAGE sql STABLE AS %L', format('SELECT %s::smallint', slot));
  UPDATE realtime.ring SET switched = age;
  INSERT INTO realtime.recorded (elapsed, snapshot) VALUES (age, pg_current_snapshot());
END $f$;

-- Returns 'emptied', 'switched', 'blocked' (something is due and can't be done yet) or null (nothing is due).
CREATE OR REPLACE FUNCTION realtime.turn(keep interval, max_bytes bigint, published pg_snapshot) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $f$
DECLARE
  requests bigint[]; purged int[]; current int; sizes bigint[]; used bool[]; others int[]; free int;
  pressed bool; large bool; due bool; age interval; s int; done bool; locked int[]; stuck bool := false; started timestamptz := clock_timestamp();
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'realtime.turn() needs a READ COMMITTED transaction';
  ELSIF keep <= '0' OR max_bytes <= 0 THEN
    RAISE EXCEPTION 'realtime.turn(): keep and max_bytes have to be positive';
  END IF;
  PERFORM FROM realtime.ring FOR UPDATE;   -- one turn at a time, each of what the last one left
  requests := ARRAY(SELECT p.n FROM realtime.purges p WHERE p.done IS NULL);   -- before the sizes: what they ask for shows in these
  current := (SELECT l.slot FROM realtime.log_state l);
  sizes := ARRAY(SELECT pg_total_relation_size(format('realtime.events_%s', i)) FROM generate_series(0, 3) i ORDER BY i);
  used := ARRAY(SELECT pg_relation_size(format('realtime.events_%s', i)) > 0 FROM generate_series(0, 3) i ORDER BY i);
  others := ARRAY(SELECT (current + i) % 4 FROM generate_series(1, 3) i WHERE used[(current + i) % 4 + 1] ORDER BY i);   -- oldest first
  free := (SELECT (current + i) % 4 FROM generate_series(1, 3) i WHERE NOT used[(current + i) % 4 + 1] ORDER BY i LIMIT 1);
  PERFORM realtime.note_emptied(requests, ARRAY(SELECT i FROM generate_series(0, 3) i WHERE NOT used[i + 1]));
  purged := ARRAY(SELECT DISTINCT unnest(p.slots) FROM realtime.purges p WHERE p.n = ANY (requests));
  pressed := (SELECT sum(b) FROM unnest(sizes) b) >= max_bytes;
  large := sizes[current + 1] >= max_bytes / 4;
  age := realtime.ring_time(keep, '15 s', pressed OR large);
  due := used[current + 1] AND (large OR current = ANY (purged) OR (SELECT age - r.switched >= keep / 2 FROM realtime.ring r));
  IF due AND free IS NOT NULL THEN
    PERFORM realtime.switch(free, age);
    RETURN 'switched';
  END IF;
  FOR try IN 1 .. 10 LOOP            -- readers come and go within a fraction of a millisecond
    locked := '{}';
    FOREACH s IN ARRAY others LOOP
      done := realtime.empty(s, CASE WHEN s = ANY (purged) THEN NULL WHEN pressed THEN age ELSE age - keep END, published);
      IF done THEN
        PERFORM realtime.note_emptied(requests, ARRAY[s]);
        PERFORM set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
        RETURN 'emptied';
      END IF;
      locked := CASE WHEN done IS NULL THEN locked || s ELSE locked END;
    END LOOP;
    EXIT WHEN locked = '{}' OR clock_timestamp() - started > '100 ms';   -- beneath an open bulk writer's rows a look is long
    PERFORM pg_sleep(0.003);
  END LOOP;
  FOREACH s IN ARRAY locked LOOP     -- where nothing is committed nothing is old
    EXECUTE format('SELECT max(xid) IS NOT NULL FROM realtime.events_%s', s) INTO done;
    stuck := stuck OR done OR s = ANY (purged);
  END LOOP;
  RETURN CASE WHEN due OR pressed OR stuck OR EXISTS (SELECT FROM realtime.purges p
    WHERE p.n = ANY (requests) AND p.requested < clock_timestamp() - interval '10 s') THEN 'blocked' END;
EXCEPTION WHEN lock_not_available THEN   -- of another turn, or of somebody who has locked a whole partition
  RETURN 'blocked';
END $f$;

-- A turn for the sake of the requests alone; false where a server leads, which makes the turns itself.
CREATE FUNCTION realtime.turn_alone(published pg_snapshot) RETURNS bool LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  IF NOT pg_try_advisory_xact_lock(1919247220, 2) THEN
    RETURN false;
  END IF;
  PERFORM realtime.turn('1000 years', 9223372036854775807, published);
  RETURN true;
END $f$;

-- Waits until every request is done, and sees to it itself where no server has led for two seconds. Nothing is held
-- between its steps, which is why it can't run in a transaction block. Returns how many requests are still open.
CREATE PROCEDURE realtime.finish_purges(wait interval DEFAULT '1 minute', INOUT still_open bigint DEFAULT NULL) LANGUAGE plpgsql AS $f$
DECLARE
  older pg_snapshot; newer pg_snapshot; step int := 0;
BEGIN
  LOOP
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    still_open := (SELECT pg_catalog.count(*) FROM realtime.purges WHERE done IS NULL);
    EXIT WHEN still_open = 0 OR step >= 10 * EXTRACT(epoch FROM wait);
    IF step % 20 = 0 THEN
      older := newer;
      newer := pg_catalog.pg_current_snapshot();
    END IF;
    IF NOT realtime.turn_alone(older) THEN
      older := NULL;
      newer := NULL;
    END IF;
    step := step + 1;
    COMMIT;
    PERFORM pg_catalog.pg_sleep(0.1);
  END LOOP;
END $f$;

REVOKE ALL ON FUNCTION realtime.purge(), realtime.note_emptied(bigint[], int[]), realtime.switch(int, interval),
  realtime.turn_alone(pg_snapshot) FROM PUBLIC;
REVOKE ALL ON PROCEDURE realtime.finish_purges(interval, bigint) FROM PUBLIC;
GRANT SELECT ON realtime.purges TO realtime_reader;
