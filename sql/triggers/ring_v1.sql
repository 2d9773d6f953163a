-- realtime.turn(): the ring of partitions. Run as realtime_owner; the leader calls it every second or so.
--
-- Invariants:
-- - a partition is emptied only when a snapshot F, recorded at least `keep` ago (or of any age when the log is over
--   `max_bytes`), sees everything in it, and so does `published`; floor becomes F, normalised, in the same
--   transaction, and never steps back: contains(new floor, old floor);
-- - age is the ring's own count of elapsed time: a clock that jumps ahead adds at most `tick`, one that jumps back
--   adds nothing; time without a leader does not count. All of this can only keep the log longer;
-- - NOWAIT: a waiting TRUNCATE would queue every reader and writer behind it.
-- Snapshots are recorded raw: incarnate() discards them.

CREATE FUNCTION realtime.sees(s pg_snapshot, slot int) RETURNS bool LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  result bool;
BEGIN
  EXECUTE format('SELECT coalesce(max(xid) < pg_snapshot_xmax($1), true)
    AND NOT EXISTS (SELECT FROM pg_snapshot_xip($1) x JOIN realtime.events_%s e ON e.xid = x) FROM realtime.events_%1$s', slot)
    INTO result USING s;
  RETURN result;
END $f$;

-- s as far as xid d: everything beyond had no event, or is left for later.
CREATE FUNCTION realtime.normal(s pg_snapshot, d xid8) RETURNS pg_snapshot LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT concat(coalesce(min(x), m.top), ':', m.top, ':', string_agg(x::text, ',' ORDER BY x))::pg_snapshot
  FROM (SELECT (d::text::bigint + 1)::text::xid8 AS top) m LEFT JOIN pg_snapshot_xip(s) x ON x < m.top GROUP BY m.top
$f$;

CREATE FUNCTION realtime.contains(s pg_snapshot, f pg_snapshot) RETURNS bool LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT pg_snapshot_xmax(f) <= pg_snapshot_xmax(s) AND NOT EXISTS (SELECT FROM pg_snapshot_xip(s) x
    WHERE x < pg_snapshot_xmax(f) AND x NOT IN (SELECT pg_snapshot_xip(f)))
$f$;

-- The floor that emptying the partition would leave; null where it may not be emptied.
CREATE FUNCTION realtime.next_floor(slot int, oldest interval, published pg_snapshot) RETURNS pg_snapshot LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  last xid8; f pg_snapshot := (SELECT s.floor FROM realtime.log_state s);
BEGIN
  EXECUTE format('SELECT max(xid) FROM realtime.events_%s', slot) INTO last;
  IF last IS NULL THEN
    RETURN f;
  ELSIF published IS NULL OR NOT realtime.sees(published, slot) THEN
    RETURN NULL;
  END IF;
  RETURN (SELECT c.normal FROM (SELECT r.seq, r.snapshot, realtime.normal(r.snapshot,
        greatest(last, (pg_snapshot_xmax(f)::text::bigint - 1)::text::xid8)) AS normal
      FROM realtime.recorded r WHERE r.elapsed <= oldest AND pg_snapshot_xmax(r.snapshot) >= pg_snapshot_xmax(f)) c
    WHERE realtime.contains(c.normal, f) AND realtime.sees(c.snapshot, slot) ORDER BY c.seq LIMIT 1);
END $f$;

-- Empties one partition; false where the rules do not allow it, null where somebody's lock is in the way.
CREATE FUNCTION realtime.empty(slot int, oldest interval, published pg_snapshot) RETURNS bool LANGUAGE plpgsql
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
  UPDATE realtime.log_state SET floor = f;
  EXECUTE format('TRUNCATE ONLY realtime.events_%s', slot);
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN NULL;
END $f$;

-- Counts time, records the snapshot when one is due; returns the ring's age now.
CREATE FUNCTION realtime.ring_time(keep interval, tick interval, pressed bool) RETURNS interval LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  age interval; gone interval; due_after interval := CASE WHEN pressed THEN tick ELSE keep END; last interval := (SELECT max(r.elapsed) FROM realtime.recorded r);
BEGIN
  SELECT r.elapsed, clock_timestamp() - r.seen INTO age, gone FROM realtime.ring r FOR UPDATE;
  IF gone < '0' OR gone >= least(tick, keep / 50) THEN
    UPDATE realtime.ring SET elapsed = elapsed + least(greatest(gone, '0'), tick), seen = clock_timestamp() RETURNING elapsed INTO age;
  END IF;
  IF last IS NULL OR age - last >= least(keep / 8, due_after) THEN
    INSERT INTO realtime.recorded (elapsed, snapshot) VALUES (age, pg_current_snapshot());
    -- those beyond twice `keep` are of no use; under pressure the newest 64 serve
    DELETE FROM realtime.recorded r WHERE r.elapsed < age - 2 * keep
      OR r.seq <= (SELECT max(m.seq) - 64 FROM realtime.recorded m);
  END IF;
  RETURN age;
END $f$;

-- Returns 'emptied', 'switched', 'blocked' (something is due and can't be done yet) or null (nothing is due).
CREATE FUNCTION realtime.turn(keep interval, max_bytes bigint, published pg_snapshot) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  current int := (SELECT s.slot FROM realtime.log_state s);
  sizes bigint[] := ARRAY(SELECT pg_total_relation_size(format('realtime.events_%s', i)) FROM generate_series(0, 3) i ORDER BY i);
  used bool[] := ARRAY(SELECT pg_relation_size(format('realtime.events_%s', i)) > 0 FROM generate_series(0, 3) i ORDER BY i);
  oldest int := (SELECT (current + i) % 4 FROM generate_series(1, 3) i WHERE used[(current + i) % 4 + 1] ORDER BY i LIMIT 1);
  pressed bool := (SELECT sum(b) FROM unnest(sizes) b) >= max_bytes;
  age interval; due bool; done bool;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'realtime.turn() needs a READ COMMITTED transaction';
  ELSIF keep <= '0' OR max_bytes <= 0 THEN
    RAISE EXCEPTION 'realtime.turn(): keep and max_bytes have to be positive';
  END IF;
  age := realtime.ring_time(keep, '15 s', pressed OR sizes[current + 1] >= max_bytes / 4);
  due := used[current + 1] AND ((SELECT age - r.switched >= keep / 2 FROM realtime.ring r) OR sizes[current + 1] >= max_bytes / 4);
  IF due AND NOT used[(current + 1) % 4 + 1] THEN
    UPDATE realtime.log_state SET slot = (current + 1) % 4;
    EXECUTE format('CREATE OR REPLACE FUNCTION realtime.slot() RETURNS smallint LANGUAGE sql STABLE AS %L',
      format('SELECT %s::smallint', (current + 1) % 4));
    UPDATE realtime.ring SET switched = age;
    INSERT INTO realtime.recorded (elapsed, snapshot) VALUES (age, pg_current_snapshot());
    RETURN 'switched';
  END IF;
  FOR try IN 1 .. 10 LOOP            -- readers come and go within a fraction of a millisecond
    EXIT WHEN oldest IS NULL OR done IS NOT NULL;
    done := realtime.empty(oldest, CASE WHEN pressed THEN age ELSE age - keep END, published);
    PERFORM pg_sleep(0.003) WHERE done IS NULL;
  END LOOP;
  IF done THEN
    RETURN 'emptied';
  END IF;
  RETURN CASE WHEN due THEN 'blocked' END;
END $f$;
