-- How tables are locked for watch, unwatch and migrations: so that no transaction of the application fails for it, and none
-- waits long. Run as realtime_owner; the locks are those of the caller, with the caller's rights.
--
-- Invariants:
-- - the lock of realtime.generations comes first: who defines watches takes turns by it. Then come tables in one order: by oid,
--   each before its partitions;
-- - a lock that will be needed is taken at once in its final strength: who reads a table and then writes to it would form a
--   deadlock with a lock that is made stronger later;
-- - a request stands in the queue for `realtime.patience` (0.5 s) at most, and always for less than half of deadlock_timeout:
--   so PostgreSQL never ends a transaction of the application for it. Then everything that was got is given back, and after
--   a pause it is tried again, for `realtime.give_up` (30 s) in all, or for the caller's lock_timeout where that is shorter;
-- - where the transaction holds locks already for which others may wait, nothing stands in the queue at all, and it is over
--   after `realtime.patience`: who waits for us and holds what we wait for is a deadlock, which PostgreSQL ends at once.

-- A setting of ours as an interval; what is no interval is told with the setting's name.
CREATE OR REPLACE FUNCTION realtime.setting(name text, otherwise interval) RETURNS interval LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  given text := nullif(current_setting(name, true), '');
  result interval;
BEGIN
  result := coalesce(given::interval, otherwise);
  IF result <= '0' THEN
    RAISE invalid_parameter_value;
  END IF;
  RETURN result;
EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow OR invalid_parameter_value THEN
  RAISE EXCEPTION '% = ''%'' is no time above zero: write it like ''500 ms''', name, given USING ERRCODE = 'invalid_parameter_value';
END $f$;

-- The relations to lock for these tables, in order: a table, then its partitions.
CREATE OR REPLACE FUNCTION realtime.lock_order(tables oid[]) RETURNS oid[] LANGUAGE sql STABLE AS $f$
  SELECT array_agg(o.relid ORDER BY o.i) FROM (
    SELECT relid, min(i) AS i FROM (
      SELECT m.relid, row_number() OVER (ORDER BY t.rel, m.depth, m.relid) AS i
      FROM (SELECT DISTINCT unnest(tables) AS rel) t CROSS JOIN LATERAL realtime.tree(t.rel) m) n
    GROUP BY relid) o
$f$;

-- Who holds a lock on one of these relations that is in the way of this mode, for a message.
CREATE OR REPLACE FUNCTION realtime.holders(relations oid[], mode text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT string_agg(format('session %s (%s%s, %s for %s s) holds %s on %s', l.pid, coalesce(a.usename, '?'),
      ', ' || nullif(a.application_name, ''), coalesce(a.state, 'open'),
      coalesce(round(extract(epoch FROM clock_timestamp() - a.xact_start))::text, '?'), l.mode, l.relation::regclass), '; ')
  FROM (SELECT DISTINCT ON (pid) * FROM pg_locks l WHERE locktype = 'relation' AND granted AND relation = ANY (relations) AND pid <> pg_backend_pid()
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (holders.mode = 'ACCESS EXCLUSIVE' OR l.mode NOT IN ('AccessShareLock', 'RowShareLock')) ORDER BY pid, l.mode DESC LIMIT 5) l
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
$f$;

-- Whether others may be waiting for this transaction already: it holds locks against writers, or of rows, on other relations than
-- these, or weaker ones than the strongest on these; on relations that it did not make itself.
CREATE OR REPLACE FUNCTION realtime.holds_others(relations oid[]) RETURNS bool LANGUAGE sql STABLE AS $f$
  SELECT EXISTS (SELECT FROM pg_locks l WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
    AND CASE WHEN l.relation = ANY (relations) THEN l.mode <> 'AccessExclusiveLock' ELSE l.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock') END
    AND EXISTS (SELECT FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tableoid'   -- as old as the relation
      WHERE c.oid = l.relation AND c.relkind IN ('r', 'p') AND c.relnamespace <> ALL ('{realtime,pg_catalog}'::regnamespace[])
        AND coalesce(age(a.xmin) > age(pg_current_xact_id_if_assigned()::xid), true)))
$f$;

-- One attempt: the tables and their partitions, or none and false. `patience` null: without waiting.
CREATE OR REPLACE FUNCTION realtime.try_locks(tables oid[], mode text, patience interval) RETURNS bool LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1 ms' AS $f$
DECLARE
  relations oid[] := realtime.lock_order(tables); rel oid; what regclass; until timestamptz := clock_timestamp() + patience; rest int;
BEGIN
  FOREACH rel IN ARRAY relations LOOP
    -- A partition of others is locked through its parent. What is gone, or can't be locked at all, is passed over.
    what := (SELECT r FROM (SELECT rel AS r, 1 AS i UNION ALL SELECT a.relid, 2 FROM pg_partition_ancestors(rel) a WHERE a.relid = ANY (tables)) c
      WHERE has_table_privilege(r, 'UPDATE, DELETE, TRUNCATE') ORDER BY i LIMIT 1);
    CONTINUE WHEN what IS NULL;
    rest := floor(extract(epoch FROM until - clock_timestamp()) * 1000);
    IF rest <= 0 THEN
      RAISE lock_not_available;
    ELSIF rest IS NOT NULL THEN
      PERFORM set_config('lock_timeout', rest || 'ms', true);
    END IF;
    EXECUTE format('LOCK TABLE %s %s IN %s MODE %s', CASE WHEN what = rel THEN 'ONLY' END, what, mode, CASE WHEN rest IS NULL THEN 'NOWAIT' END);
  END LOOP;
  IF NOT realtime.lock_order(tables) <@ relations THEN   -- a partition was made before its parent was locked
    RAISE lock_not_available;
  END IF;
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN false;
END $f$;

-- Locks these tables and their partitions, as the invariants above say.
CREATE OR REPLACE FUNCTION realtime.take_locks(tables oid[], mode text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  began timestamptz := clock_timestamp();
  own interval := nullif(current_setting('lock_timeout'), '0')::interval;
  relations oid[] := realtime.lock_order(tables);
  holding bool := realtime.holds_others(relations);
  patience interval := least(realtime.setting('realtime.patience', '0.5 s'), current_setting('deadlock_timeout')::interval / 2, own);
  give_up interval := least(CASE WHEN holding THEN patience ELSE realtime.setting('realtime.give_up', '30 s') END, own);
  named text := (SELECT string_agg(t::regclass::text, ', ' ORDER BY t) FROM (SELECT DISTINCT unnest(tables) AS t) u);
BEGIN
  LOOP
    EXIT WHEN realtime.try_locks(tables, mode, CASE WHEN holding THEN NULL ELSE patience END);
    IF clock_timestamp() - began >= give_up THEN
      RAISE EXCEPTION 'realtime: % could not be locked within %: nothing was changed', named, give_up USING ERRCODE = 'lock_not_available',
        DETAIL = coalesce(realtime.holders(relations, mode), 'Others use it without a pause.'),
        HINT = CASE WHEN holding THEN 'This transaction holds locks already, for which others wait. Begin it with SELECT realtime.lock(''{…}'') of all its tables.'
          ELSE 'End the session that is in the way, or try again at a quieter time; SET realtime.give_up = ''5 min'' tries for longer.' END;
    END IF;
    PERFORM pg_sleep(CASE WHEN holding THEN 0.005 ELSE 0.05 + random() * least(extract(epoch FROM patience), extract(epoch FROM give_up)) END);
    relations := realtime.lock_order(tables);
  END LOOP;
END $f$;

-- Takes the lock of who defines watches, or is false: another holds it.
CREATE OR REPLACE FUNCTION realtime.try_turn() RETURNS bool LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  LOCK TABLE realtime.generations IN SHARE ROW EXCLUSIVE MODE NOWAIT;
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN false;
END $f$;

-- Who defines watches takes turns, before any table is locked.
CREATE OR REPLACE FUNCTION realtime.take_turn() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  began timestamptz := clock_timestamp();
  give_up interval := least(CASE WHEN realtime.holds_others('{}') THEN realtime.setting('realtime.patience', '0.5 s')
    ELSE realtime.setting('realtime.give_up', '30 s') END, nullif(current_setting('lock_timeout'), '0')::interval);
BEGIN
  WHILE NOT realtime.try_turn() LOOP
    IF clock_timestamp() - began >= give_up THEN
      RAISE EXCEPTION 'realtime: another transaction is watching or unwatching tables, and has not ended within %: nothing was changed', give_up
        USING ERRCODE = 'lock_not_available', DETAIL = realtime.holders(ARRAY['realtime.generations'::regclass], 'SHARE ROW EXCLUSIVE');
    END IF;
    PERFORM pg_sleep(0.01);
  END LOOP;
END $f$;

-- For a migration that changes several tables: all of them at once, at its beginning, with nothing held yet.
CREATE OR REPLACE FUNCTION realtime.lock(tables regclass[]) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  PERFORM realtime.take_turn();
  PERFORM realtime.take_locks(tables::oid[], 'ACCESS EXCLUSIVE');
END $f$;

-- For the way back: every watched table, and what else bears a capture trigger, before the first is touched. A table of which
-- the caller may lock nothing is left to the moment when its triggers go.
CREATE OR REPLACE FUNCTION realtime.lock_watched() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  watched oid[];
BEGIN
  PERFORM realtime.take_turn();
  watched := ARRAY(SELECT g.relid FROM realtime.generations g JOIN pg_class c ON c.oid = g.relid WHERE NOT g.ended
    UNION SELECT t.tgrelid FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE p.pronamespace = 'realtime'::regnamespace);
  IF watched <> '{}' THEN
    PERFORM realtime.take_locks(watched, 'ACCESS EXCLUSIVE');
  END IF;
END $f$;
