-- realtime.watch and realtime.unwatch: what migrations and DBAs call. Run as realtime_owner.
--
-- Invariants: a generation begins in the transaction that makes its triggers true, with the table locked against
-- writers, so every earlier writer has ended and every later one is captured; whatever had to be mended or changed
-- makes a new generation. The caller needs to be a member of realtime_owner (it attaches capture functions) and to
-- own the table; what touches the event log runs as realtime_owner, in functions that nobody else may call.

-- Writes a G event in the name of a generation that begins or ends, also while the fuse is open.
CREATE OR REPLACE FUNCTION realtime.announce(gen int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, at)
    SELECT (realtime.slot() + 4) % 4, nextval('realtime.event_id'), 0, pg_current_xact_id(), announce.gen, 'G', 0, clock_timestamp();
  IF NOT pg_try_advisory_xact_lock_shared(1919247220, 1) THEN
    PERFORM pg_notify('realtime', '');
  END IF;
END $f$;

-- Drops capture functions that no live generation has. CASCADE takes with them the triggers that other tables may still bear: a
-- partition that was detached, a copy. Where one of those is in use the functions stay, capture nothing, and go at a
-- later realtime.check(): nobody waits for it.
CREATE OR REPLACE FUNCTION realtime.drop_capture(capture text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET client_min_messages = warning SET lock_timeout = '20 ms' AS $f$
BEGIN
  PERFORM realtime.define((SELECT format('DROP FUNCTION IF EXISTS %s CASCADE', string_agg(format('realtime.%I()', concat(capture, '_', op)), ', '))
    FROM unnest('{insert,update,delete,truncate}'::text[]) op));
EXCEPTION WHEN lock_not_available THEN
  NULL;
END $f$;

CREATE OR REPLACE FUNCTION realtime.end_generation(gen int) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  PERFORM realtime.drop_capture((SELECT g.capture FROM realtime.generations g WHERE g.gen = end_generation.gen));
  UPDATE realtime.generations g SET ended = true WHERE g.gen = end_generation.gen;
  DELETE FROM realtime.relations r WHERE r.gen = end_generation.gen;
  PERFORM realtime.announce(gen);
END $f$;

-- A new generation of the watch that `previous` belongs to, or of a new watch (null): the row, the functions, the event.
CREATE OR REPLACE FUNCTION realtime.begin_generation(rel oid, routes text[], level "char", mark bool, previous int, always bool DEFAULT false)
RETURNS int LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
#variable_conflict use_column
<<here>>
DECLARE
  d record;
  vals text[];
  gen int := (SELECT coalesce(max(g.gen), 0) + 1 FROM realtime.generations g);
  capture text := coalesce((SELECT g.capture FROM realtime.generations g WHERE g.gen = previous),
    'capture_' || replace(left(gen_random_uuid()::text, 13), '-', ''));   -- in no other database: a dump of a table names its functions
BEGIN
  SELECT * INTO d FROM realtime.describe(rel);
  here.vals := coalesce(d.key, '{}') || ARRAY(SELECT c FROM unnest(begin_generation.routes) WITH ORDINALITY r(route, i)
    CROSS JOIN LATERAL unnest(realtime.route_columns(r.route)) WITH ORDINALITY u(c, j)
    WHERE c <> ALL (coalesce(d.key, '{}')) GROUP BY c ORDER BY min(i), min(j));
  PERFORM realtime.make_capture(ROW(rel, here.gen, here.capture, d.key, here.vals, d.hidden, begin_generation.level, begin_generation.mark));
  UPDATE realtime.generations g SET ended = true WHERE g.capture = here.capture AND NOT g.ended;
  INSERT INTO realtime.generations (gen, relid, schema, name, key, routes, vals, types, json_types, spellings, level, mark, capture, captured, fingerprint, always, labels)
    SELECT here.gen, rel, d.schema, d.name, d.key, begin_generation.routes, here.vals,
      ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM unnest(here.vals) WITH ORDINALITY v(c, i)
        JOIN pg_attribute a ON a.attrelid = rel AND a.attname = c ORDER BY i),
      ARRAY(SELECT realtime.json_type(a.atttypid) FROM unnest(here.vals) WITH ORDINALITY v(c, i)
        JOIN pg_attribute a ON a.attrelid = rel AND a.attname = c ORDER BY i),
      ARRAY(SELECT realtime.spelling(a.atttypid, a.atttypmod, a.attcollation) FROM unnest(here.vals) WITH ORDINALITY v(c, i)
        JOIN pg_attribute a ON a.attrelid = rel AND a.attname = c ORDER BY i),
      begin_generation.level, begin_generation.mark, here.capture, rel, d.fingerprint, begin_generation.always,
      (SELECT t.labels FROM realtime.type_traits(rel) t);
  UPDATE realtime.relations r SET gen = here.gen WHERE r.gen = previous;
  PERFORM realtime.note(here.gen, false);
  PERFORM realtime.announce(here.gen);
  RETURN here.gen;
END $f$;

-- Raises what is wrong with watching `rel`, in words that say what to do.
CREATE OR REPLACE FUNCTION realtime.refuse(rel regclass) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  c pg_class := (SELECT c FROM pg_class c WHERE c.oid = rel);
  why text := CASE
    WHEN c.oid IS NULL THEN 'there is no such table'
    WHEN c.relkind NOT IN ('r', 'p') THEN CASE c.relkind WHEN 'v' THEN 'it is a view: watch the tables beneath it'
      WHEN 'm' THEN 'it is a materialized view: watch the tables beneath it' WHEN 'f' THEN 'it is a foreign table: its changes are made elsewhere'
      ELSE 'it is not a table' END
    WHEN c.relpersistence = 't' THEN 'it is a temporary table'
    WHEN c.relpersistence = 'u' THEN 'it is unlogged: a crash empties it without a change that could be told'
    WHEN c.relnamespace = 'realtime'::regnamespace THEN 'it is one of realtime''s own'
    WHEN c.relnamespace IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace, 'information_schema'::regnamespace) THEN 'it is a system table'
    WHEN c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) THEN 'other tables inherit from it: watch those'
    WHEN current_setting('transaction_isolation') <> 'read committed' THEN 'the transaction has to be READ COMMITTED' END;
BEGIN
  IF why IS NOT NULL THEN
    RAISE EXCEPTION 'realtime: % cannot be watched: %', rel, why USING ERRCODE = 'invalid_parameter_value';
  END IF;
END $f$;

-- The routes in their one spelling, without duplicates and the key; raises where one is no route of the table.
CREATE OR REPLACE FUNCTION realtime.normal_routes(rel regclass, routes text[]) RETURNS text[] LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  r text; columns text[]; c text; a pg_attribute; result text[] := '{}';
BEGIN
  FOREACH r IN ARRAY coalesce(routes, '{}') LOOP
    columns := realtime.route_columns(coalesce(r, ''));
    FOREACH c IN ARRAY columns LOOP
      SELECT * INTO a FROM pg_attribute WHERE attrelid = rel AND attname = c AND attnum > 0 AND NOT attisdropped;
      IF NOT FOUND THEN
        RAISE EXCEPTION 'realtime: table % has no column "%" (route "%")', rel, c, r USING ERRCODE = 'undefined_column',
          HINT = 'Its columns: ' || (SELECT string_agg(realtime.encode_name(attname), ', ' ORDER BY attnum) FROM pg_attribute
            WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped);
      ELSIF realtime.spelling(a.atttypid, a.atttypmod, a.attcollation) IS NULL OR a.attgenerated = 'v' THEN
        RAISE EXCEPTION 'realtime: column "%" of % cannot be in a route: %', c, rel, CASE WHEN a.attgenerated = 'v'
          THEN 'it is a virtual generated column' ELSE 'values of type ' || format_type(a.atttypid, a.atttypmod) || ' are not told apart by their text' END
          USING ERRCODE = 'invalid_parameter_value';
      END IF;
    END LOOP;
    IF (SELECT count(DISTINCT u) FROM unnest(columns) u) < cardinality(columns) THEN
      RAISE EXCEPTION 'realtime: route "%" names a column twice', r USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF columns IS DISTINCT FROM (SELECT d.key FROM realtime.describe(rel) d) AND realtime.route_text(columns) <> ALL (result) THEN
      result := result || realtime.route_text(columns);
    END IF;
  END LOOP;
  RETURN result;
END $f$;

-- Triggers that a table should bear and does not (missing, disabled, another's), or bears and should not. A stray one is on
-- a table that is neither this one nor a partition of it.
CREATE OR REPLACE FUNCTION realtime.wrong_triggers(rel oid, level "char", mark bool, capture text, always bool)
RETURNS TABLE (relid oid, name text, problem text, stray bool) LANGUAGE sql STABLE AS $f$
  SELECT coalesce(e.relid, t.tgrelid), coalesce(e.name, t.tgname::text), CASE WHEN t.tgname IS NULL THEN 'is missing'
    WHEN e.name IS NULL THEN 'is not needed' WHEN t.tgenabled IN ('O', 'A') THEN 'is not ENABLE ALWAYS' ELSE 'is disabled' END,
    e.name IS NULL AND t.tgrelid <> rel AND NOT EXISTS (SELECT FROM pg_partition_ancestors(t.tgrelid) a WHERE a.relid = rel)
  FROM realtime.triggers(rel, level, mark, capture) e
  FULL JOIN (SELECT t.tgrelid, t.tgname, t.tgtype, t.tgenabled, t.tgqual IS NOT NULL AS marked FROM realtime.capture_triggers(capture) t) t
    ON t.tgrelid = e.relid AND t.tgname = e.name AND t.tgtype = e.type AND t.marked = e.marked
  WHERE t.tgname IS NULL OR e.name IS NULL OR t.tgenabled <> 'A' AND (always OR t.tgenabled <> 'O')
$f$;

-- `always`: the triggers fire in sessions that replicate, too (session_replication_role, logical subscriptions); null keeps
-- what is. What is as it should be stays so, without a lock.
CREATE OR REPLACE FUNCTION realtime.watch("table" regclass, routes text[] DEFAULT '{}', always bool DEFAULT NULL) RETURNS int LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $f$
#variable_conflict use_column
<<here>>
DECLARE
  rel oid := "table"; wanted text[]; d record; g realtime.generations; gen int; sound bool;
BEGIN
  PERFORM realtime.refuse("table");
  IF NOT pg_has_role((SELECT c.relowner FROM pg_class c WHERE c.oid = here.rel), 'USAGE') THEN
    RAISE EXCEPTION 'realtime: only the owner of % may watch it', "table" USING ERRCODE = 'insufficient_privilege';
  END IF;
  PERFORM realtime.take_turn();
  FOR try IN 1 .. 2 LOOP   -- as it is, and if that is not enough, locked
    here.wanted := realtime.normal_routes("table", watch.routes);
    SELECT * INTO g FROM realtime.generations o WHERE o.relid = here.rel AND NOT o.ended;
    SELECT x.*, CASE WHEN watch.always OR watch.always IS NULL AND g.always THEN 'r'::"char" ELSE x.level END AS how,
      coalesce(watch.always, g.always, false) AS always INTO d FROM realtime.describe(here.rel) x;
    here.sound := g.gen IS NOT NULL AND (g.fingerprint, g.level, g.mark, g.routes, g.always) = (d.fingerprint, d.how, d.mark, here.wanted, d.always)
      AND NOT EXISTS (SELECT FROM realtime.wrong_triggers(here.rel, d.how, g.mark, g.capture, d.always) w WHERE NOT w.stray AND realtime.matters(here.rel, w.relid, w.name))
      AND NOT EXISTS (SELECT FROM realtime.differences(ARRAY[g.gen]) x WHERE x.why IS NOT NULL);
    IF here.sound AND NOT EXISTS (SELECT FROM realtime.wrong_triggers(here.rel, d.how, g.mark, g.capture, d.always) w WHERE NOT w.stray) THEN
      RETURN g.gen;
    ELSIF try = 1 THEN   -- a trigger is dropped under the strongest lock, and made under a weaker
      PERFORM realtime.take_locks(ARRAY[here.rel], CASE WHEN g.gen IS NULL THEN 'SHARE ROW EXCLUSIVE' ELSE 'ACCESS EXCLUSIVE' END);
    END IF;
  END LOOP;
  PERFORM realtime.follow(here.rel) FROM realtime.generations o   -- whom others still take for the table of this name
    WHERE NOT o.ended AND (o.schema, o.name) = (d.schema, d.name) AND o.relid <> here.rel LIMIT 1;
  IF g.gen IS NULL AND (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = here.rel) THEN
    RAISE WARNING 'realtime: % has row security, which does not hold for its changes: they go to everybody who may subscribe to its channels', "table"
      USING HINT = 'docs/safe-watching.md says what to do.';
  END IF;
  here.gen := CASE WHEN here.sound THEN g.gen ELSE realtime.begin_generation(here.rel, here.wanted, d.how, d.mark, g.gen, d.always) END;
  SELECT * INTO g FROM realtime.generations o WHERE o.gen = here.gen;
  PERFORM realtime.mend_triggers(g);
  PERFORM realtime.note(here.gen, true);
  RETURN here.gen;
END $f$;

-- Gives a table the triggers of its generation, and takes off the others that call its capture functions.
CREATE OR REPLACE FUNCTION realtime.mend_triggers(g realtime.generations) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  o record;
BEGIN
  IF NOT EXISTS (SELECT FROM realtime.wrong_triggers(g.relid, g.level, g.mark, g.capture, g.always) w WHERE NOT w.stray) THEN
    RETURN;
  END IF;
  PERFORM realtime.drop_triggers(g.relid, g.capture);
  FOR o IN SELECT e.* FROM realtime.triggers(g.relid, g.level, g.mark, g.capture) e WHERE e.sql IS NOT NULL ORDER BY e.relid <> g.relid LOOP
    EXECUTE o.sql;
    IF g.always THEN
      EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', o.relid::regclass, o.name);
    END IF;
  END LOOP;
END $f$;

CREATE OR REPLACE FUNCTION realtime.drop_triggers(rel oid, capture text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  o record;
BEGIN
  FOR o IN SELECT t.tgname, t.tgrelid::regclass AS on_table FROM realtime.capture_triggers(capture) t WHERE t.tgparentid = 0
    AND pg_has_role((SELECT c.relowner FROM pg_class c WHERE c.oid = t.tgrelid), 'USAGE')   -- on a partition of others it may stay
    AND t.tgrelid IN (SELECT p.relid FROM realtime.tree(rel) p)   -- what is locked; a stray one is told by realtime.check()
  LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', o.tgname, o.on_table);
  END LOOP;
END $f$;

-- Takes a table off the air. Returns the generation that ended, null where the table was not watched.
CREATE OR REPLACE FUNCTION realtime.unwatch("table" regclass) RETURNS int LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  g realtime.generations;
BEGIN
  PERFORM realtime.take_turn();
  SELECT * INTO g FROM realtime.generations o WHERE o.relid = "table" AND NOT o.ended;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  PERFORM realtime.take_locks(ARRAY["table"::oid], 'ACCESS EXCLUSIVE');
  PERFORM realtime.drop_triggers("table", g.capture);
  PERFORM realtime.end_generation(g.gen);
  RETURN g.gen;
END $f$;

-- Tells the clients of a watched table that its rows changed behind its triggers (a bulk load with triggers off, a restore):
-- each is reset exactly where this transaction stands among the others. Whom it is granted to may do it for any table.
CREATE OR REPLACE FUNCTION realtime.reload("table" regclass) RETURNS int LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  g int := (SELECT o.gen FROM realtime.generations o WHERE o.relid = "table" AND NOT o.ended);
BEGIN
  IF g IS NULL THEN
    RAISE EXCEPTION 'realtime: % is not watched, so nobody has to be told', "table" USING ERRCODE = 'invalid_parameter_value',
      HINT = coalesce((SELECT format('It is a partition of %s, which is: SELECT realtime.reload(%L)', o.relid::regclass, o.relid::regclass::text)
        FROM realtime.generations o JOIN realtime.relations r ON r.gen = o.gen WHERE r.relid = "table" LIMIT 1), 'SELECT realtime.watch(…) puts a table on the air.');
  END IF;
  PERFORM realtime.announce(g);
  RETURN g;
END $f$;

-- Makes the capture functions of all live watches anew, from the text that is installed: a migration calls it after a new
-- capture.sql. Run as realtime_owner.
-- Invariants: the generations stay, so this is only for texts that write the same event log; a table that was altered since its
-- generation began keeps its function, which realtime.check() replaces with its next generation. No table is locked:
-- a writer has the old text or the new one.
CREATE OR REPLACE FUNCTION realtime.recapture() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  LOCK TABLE realtime.generations IN SHARE ROW EXCLUSIVE MODE;
  PERFORM realtime.make_capture(ROW(l.rel, g.gen, g.capture, d.key, g.vals, d.hidden, g.level, g.mark))
    FROM realtime.located() l JOIN realtime.generations g ON g.gen = l.gen CROSS JOIN LATERAL realtime.describe(l.rel) d
    WHERE d.fingerprint = g.fingerprint;
  UPDATE realtime.generations g SET captured = l.rel FROM realtime.located() l CROSS JOIN LATERAL realtime.describe(l.rel) d
    WHERE l.gen = g.gen AND d.fingerprint = g.fingerprint AND g.captured <> l.rel;
END $f$;
