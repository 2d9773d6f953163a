-- The partitions of the event log: realtime.turn() empties them one after another, and realtime.purge() asks for all of
-- them at once. Run as realtime_owner; the leader calls turn() every second or so.
--
-- Invariants:
-- - a partition is emptied only when a snapshot F, recorded at least `keep` ago (or of any age when the event log is over
--   `max_bytes`), sees everything in it, and so does `published`; floor becomes F, normalised, in the same
--   transaction, and never steps back: contains(new floor, old floor);
-- - age is the partitions' own count of elapsed time: a clock that jumps ahead adds at most `tick`, one that jumps back
--   adds nothing; time without a leader does not count. All of this can only keep the event log longer;
-- - NOWAIT, or 50 ms: a TRUNCATE that waits queues every reader and writer behind it. The leader waits for nothing longer,
--   and less while others wait for it;
-- - writers go on in any empty partition, and any that may be emptied is: one that can't be stops nothing else;
-- - a request to purge is done when every partition that may hold a row written before its commit has been emptied since.
--   All four may; one that holds nothing does not. A writer that was still open then holds a lock (a prepared transaction
--   too), and waits are for that lock; what it writes after the switch is later than the request, and may stay;
-- - for such a request the floor becomes `published` itself, as old as the caller gives it, so that servers which are
--   no further behind than that go on.
-- Snapshots are recorded raw: incarnate() discards them.

-- Whether the snapshot sees everything in the partition.
CREATE OR REPLACE FUNCTION realtime.sees(s pg_snapshot, slot int) RETURNS bool LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  result bool;
BEGIN
  EXECUTE format('SELECT coalesce(max(xid) < pg_snapshot_xmax($1), true)
    AND NOT EXISTS (SELECT FROM pg_snapshot_xip($1) x JOIN realtime.events_%s e ON e.xid = x) FROM realtime.events_%1$s', slot)
    INTO result USING s;
  RETURN result;
END $f$;

-- s as far as xid d: everything beyond had no event, or is left for later.
CREATE OR REPLACE FUNCTION realtime.normal(s pg_snapshot, d xid8) RETURNS pg_snapshot LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT concat(coalesce(min(x), m.top), ':', m.top, ':', string_agg(x::text, ',' ORDER BY x))::pg_snapshot
  FROM (SELECT (d::text::bigint + 1)::text::xid8 AS top) m LEFT JOIN pg_snapshot_xip(s) x ON x < m.top GROUP BY m.top
$f$;

CREATE OR REPLACE FUNCTION realtime.contains(s pg_snapshot, f pg_snapshot) RETURNS bool LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT pg_snapshot_xmax(f) <= pg_snapshot_xmax(s) AND NOT EXISTS (SELECT FROM pg_snapshot_xip(s) x
    WHERE x < pg_snapshot_xmax(f) AND x NOT IN (SELECT pg_snapshot_xip(f)))
$f$;

-- The floor that emptying the partition would leave; null where it may not be emptied. Without `oldest`: whatever its age.
-- Never one that `published` does not contain: a transaction that was open when the servers last read, and wrote to
-- another partition since, is not theirs yet, and a floor that sees it would have all their clients begin anew.
CREATE OR REPLACE FUNCTION realtime.next_floor(slot int, oldest interval, published pg_snapshot) RETURNS pg_snapshot LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  last xid8; top xid8; f pg_snapshot := (SELECT s.floor FROM realtime.event_log_state s);
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
    WHERE realtime.contains(c.normal, f) AND realtime.contains(published, c.normal) AND realtime.sees(c.snapshot, slot)
    ORDER BY c.seq LIMIT 1);
END $f$;

-- Empties one partition; false where the rules do not allow it, null where somebody's lock is in the way.
CREATE OR REPLACE FUNCTION realtime.empty(slot int, oldest interval, published pg_snapshot) RETURNS bool LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  f pg_snapshot;
BEGIN
  IF realtime.next_floor(slot, oldest, published) IS NULL THEN
    RETURN false;
  END IF;
  EXECUTE format('LOCK TABLE ONLY realtime.events_%s IN ACCESS EXCLUSIVE MODE NOWAIT', slot);
  f := realtime.next_floor(slot, oldest, published);   -- again: a late writer may have ended in between
  IF f IS NULL THEN
    RETURN false;
  END IF;
  UPDATE realtime.event_log_state SET floor = f;
  EXECUTE format('TRUNCATE ONLY realtime.events_%s', slot);
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN NULL;
END $f$;

-- Counts time, records the snapshot when one is due; returns the partitions' age now.
CREATE OR REPLACE FUNCTION realtime.count_time(keep interval, tick interval, pressed bool) RETURNS interval LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  age interval; gone interval; due_after interval := CASE WHEN pressed THEN tick ELSE keep END; last interval := (SELECT max(r.elapsed) FROM realtime.recorded r);
BEGIN
  SELECT r.elapsed, clock_timestamp() - r.seen INTO age, gone FROM realtime.partitions_clock r FOR UPDATE;
  IF gone < '0' OR gone >= least(tick, keep / 50) THEN
    UPDATE realtime.partitions_clock SET elapsed = elapsed + least(greatest(gone, '0'), tick), seen = clock_timestamp() RETURNING elapsed INTO age;
  END IF;
  IF last IS NULL OR age - last >= least(keep / 8, due_after) THEN
    INSERT INTO realtime.recorded (elapsed, snapshot) VALUES (age, pg_current_snapshot());
    -- those beyond twice `keep` are of no use; under pressure the newest 64 serve
    DELETE FROM realtime.recorded r WHERE r.elapsed < age - 2 * keep
      OR r.seq <= (SELECT max(m.seq) - 64 FROM realtime.recorded m);
  END IF;
  RETURN age;
END $f$;

-- Writers go on in this partition, which is empty.
CREATE OR REPLACE FUNCTION realtime.switch(slot int, age interval) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  PERFORM setval('realtime.current_slot', slot);
  UPDATE realtime.partitions_clock SET switched = age;
  INSERT INTO realtime.recorded (elapsed, snapshot) VALUES (age, pg_current_snapshot());
END $f$;

-- Takes partitions that were emptied off the requests; a request with none left is done.
CREATE OR REPLACE FUNCTION realtime.note_emptied(requests bigint[], emptied int[]) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $f$
  UPDATE realtime.purges p SET slots = l.rest, done = CASE WHEN l.rest = '{}' THEN clock_timestamp() END
  FROM (SELECT o.n, ARRAY(SELECT s FROM unnest(o.slots) s WHERE s <> ALL (emptied) ORDER BY s) AS rest
    FROM realtime.purges o WHERE o.n = ANY (requests)) l
  WHERE p.n = l.n AND p.slots <> l.rest
$f$;

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
  PERFORM FROM realtime.partitions_clock FOR UPDATE;   -- one turn at a time, each of what the last one left
  IF realtime.fuse() <> (SELECT s.healed FROM realtime.event_log_state s) THEN   -- the fuse has its own way (fuse.sql)
    RETURN 'blocked';
  END IF;
  requests := ARRAY(SELECT p.n FROM realtime.purges p WHERE p.done IS NULL);   -- before the sizes: what they ask for shows in these
  current := realtime.slot();
  sizes := ARRAY(SELECT pg_total_relation_size(format('realtime.events_%s', i)) FROM generate_series(0, 3) i ORDER BY i);
  used := ARRAY(SELECT pg_relation_size(format('realtime.events_%s', i)) > 0 FROM generate_series(0, 3) i ORDER BY i);
  others := ARRAY(SELECT (current + i) % 4 FROM generate_series(1, 3) i WHERE used[(current + i) % 4 + 1] ORDER BY i);   -- oldest first
  free := (SELECT (current + i) % 4 FROM generate_series(1, 3) i WHERE NOT used[(current + i) % 4 + 1] ORDER BY i LIMIT 1);
  PERFORM realtime.note_emptied(requests, ARRAY(SELECT i FROM generate_series(0, 3) i WHERE NOT used[i + 1]));
  purged := ARRAY(SELECT DISTINCT unnest(p.slots) FROM realtime.purges p WHERE p.n = ANY (requests));
  pressed := (SELECT sum(b) FROM unnest(sizes) b) >= max_bytes;
  large := sizes[current + 1] >= max_bytes / 4;
  age := realtime.count_time(keep, '15 s', pressed OR large);
  due := used[current + 1] AND (large OR current = ANY (purged) OR (SELECT age - r.switched >= keep / 2 FROM realtime.partitions_clock r));
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

-- Records a request, in the caller's transaction: the rows that it wrote itself are among those that go.
CREATE OR REPLACE FUNCTION realtime.purge() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  made bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
  INSERT INTO realtime.purges DEFAULT VALUES RETURNING n INTO made;
  IF NOT EXISTS (SELECT FROM realtime.leaders()) THEN
    RAISE NOTICE 'realtime: no server leads now; the next that does will purge, or: CALL realtime.finish_purges()';
  END IF;
  RETURN made;
END $f$;

-- A turn for the sake of the requests alone, and a step of healing where the fuse has opened; false where a server leads, which does that itself.
CREATE OR REPLACE FUNCTION realtime.turn_alone(published pg_snapshot) RETURNS bool LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  IF EXISTS (SELECT FROM realtime.leaders()) THEN
    RETURN false;
  END IF;
  PERFORM pg_try_advisory_xact_lock(1919247220, (SELECT l.key FROM realtime.leadership l));   -- a server waits that long
  PERFORM realtime.mind_fuse(9223372036854775807, 0, 0) WHERE realtime.fuse() <> (SELECT s.healed FROM realtime.event_log_state s);
  PERFORM realtime.turn('1000 years', 9223372036854775807, published);
  RETURN true;
END $f$;

-- A procedure that commits can pin no search_path, and its caller may have every right there is: so each operator is
-- named with its schema, or another's of the same name would run in its place.
--
-- Waits until every request is done, and sees to it itself where no server has led for two seconds. Nothing is held
-- between its steps, which is why it can't run in a transaction block. Returns how many requests are still open.
CREATE OR REPLACE PROCEDURE realtime.finish_purges(wait interval DEFAULT '1 minute', INOUT still_open bigint DEFAULT NULL) LANGUAGE plpgsql AS $f$
DECLARE
  older pg_catalog.pg_snapshot; newer pg_catalog.pg_snapshot; step int := 0;
  steps numeric := EXTRACT(epoch FROM wait) OPERATOR(pg_catalog.*) 10.0;
BEGIN
  LOOP
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    still_open := (SELECT pg_catalog.count(*) FROM realtime.purges WHERE done IS NULL);
    EXIT WHEN still_open OPERATOR(pg_catalog.=) 0 OR step OPERATOR(pg_catalog.>=) steps;
    IF step OPERATOR(pg_catalog.%) 20 OPERATOR(pg_catalog.=) 0 THEN
      older := newer;
      newer := pg_catalog.pg_current_snapshot();
    END IF;
    IF NOT realtime.turn_alone(older) THEN
      older := NULL;
      newer := NULL;
    END IF;
    step := step OPERATOR(pg_catalog.+) 1;
    COMMIT;
    PERFORM pg_catalog.pg_sleep(0.1);
  END LOOP;
END $f$;
