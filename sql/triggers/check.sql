-- realtime.check(): finds what ALTER, DROP, ATTACH and friends did to watched tables, which no trigger tells.
-- Run as realtime_owner; the server calls it from time to time (EXECUTE for realtime_reader).
--
-- Invariants: what it can mend without rights on the table it mends, by a new generation; the rest it returns with
-- the SQL that mends it. It writes nothing when nothing changed, and never waits for a watch that is under way.

-- Where each live generation's table is now: the table whose triggers call its capture functions (an oid does not
-- survive a dump), else the table of the same oid and name, else null.
CREATE OR REPLACE FUNCTION realtime.located() RETURNS TABLE (gen int, rel oid) LANGUAGE sql STABLE AS $f$
  SELECT g.gen, coalesce(
    (SELECT t.tgrelid FROM realtime.capture_triggers(g.capture) t
      JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgparentid = 0
      ORDER BY t.tgrelid <> g.relid, (n.nspname, c.relname) <> (g.schema, g.name) LIMIT 1),
    (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.oid = g.relid AND c.relname = g.name AND n.nspname = g.schema))
  FROM realtime.generations g WHERE NOT g.ended
$f$;

-- Whether a table is that of a live generation, or a partition of it. Capture asks where the oid in its text is another:
-- in a restored database, and for a table that bears another's triggers because it was restored by name.
CREATE OR REPLACE FUNCTION realtime.owns(gen int, rel oid) RETURNS bool LANGUAGE sql STABLE AS $f$
  SELECT EXISTS (SELECT FROM realtime.located() l WHERE l.gen = owns.gen
    AND (l.rel = owns.rel OR l.rel IN (SELECT a.relid FROM pg_partition_ancestors(owns.rel) a)))
$f$;

-- Whether all columns of a route still exist with a type that can be one.
CREATE OR REPLACE FUNCTION realtime.still_route(rel oid, route text) RETURNS bool LANGUAGE sql STABLE AS $f$
  SELECT bool_and(a.attname IS NOT NULL AND a.attgenerated <> 'v' AND realtime.spelling(a.atttypid, a.atttypmod, a.attcollation) IS NOT NULL)
    AND array_agg(c) IS DISTINCT FROM (SELECT d.key FROM realtime.describe(rel) d)
  FROM unnest(realtime.route_columns(route)) c
  LEFT JOIN pg_attribute a ON a.attrelid = rel AND a.attname = c AND a.attnum > 0 AND NOT a.attisdropped
$f$;

-- A new generation for what was changed: the same watch, as far as the table still has its routes.
CREATE OR REPLACE FUNCTION realtime.go_on(g realtime.generations, rel oid) RETURNS void LANGUAGE sql VOLATILE AS $f$
  SELECT realtime.begin_generation(rel, ARRAY(SELECT r FROM unnest(g.routes) WITH ORDINALITY u(r, i) WHERE realtime.still_route(rel, r) ORDER BY i),
    g.level, g.mark, g.gen, g.always)
$f$;

-- What only the owner of a table can mend, by a call of watch(); `more` are further arguments of it,
-- `remedy` what is to be run in its place.
CREATE OR REPLACE FUNCTION realtime.problems() RETURNS TABLE (gen int, problem text, more text, remedy text) LANGUAGE sql STABLE AS $f$
  WITH live AS MATERIALIZED (SELECT g.* FROM realtime.generations g WHERE NOT g.ended)
  SELECT g.gen, 'changes are captured by statement, and now have to be by row', NULL, NULL
    FROM live g CROSS JOIN LATERAL realtime.describe(g.relid) d WHERE d.level = 'r' AND g.level = 's'
  UNION ALL SELECT g.gen, 'a trigger or a cascading foreign key was added: the order of nested changes needs a mark', NULL, NULL
    FROM live g CROSS JOIN LATERAL realtime.describe(g.relid) d WHERE d.mark AND NOT g.mark
  UNION ALL SELECT g.gen, CASE WHEN c.relpersistence = 'u' THEN 'the table became unlogged' ELSE 'other tables inherit from it' END, NULL, NULL
    FROM live g JOIN pg_class c ON c.oid = g.relid
    WHERE c.relpersistence = 'u' OR c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid)
  UNION ALL SELECT g.gen, format('subscription %s writes to %s behind its triggers', quote_ident(s.subname), r.relid::regclass), ', always => true', NULL
    FROM live g JOIN realtime.relations r ON r.gen = g.gen JOIN pg_subscription_rel p ON p.srrelid = r.relid JOIN pg_subscription s ON s.oid = p.srsubid
    WHERE NOT g.always
  UNION ALL SELECT g.gen, CASE WHEN t.stray THEN format('table %s bears the capture trigger %I of this one, as one does that was restored or copied: nothing of it is captured',
      t.relid::regclass, t.name) ELSE format('trigger %I on %s %s', t.name, t.relid::regclass, t.problem) END, NULL,
      CASE WHEN t.stray THEN format('DROP TRIGGER %I ON %s', t.name, t.relid::regclass) END
    FROM live g CROSS JOIN LATERAL realtime.wrong_triggers(g.relid, g.level, g.mark, g.capture, g.always) t
    WHERE realtime.matters(g.relid, t.relid, t.name)
$f$;

-- A new generation for each table that was altered, renamed or moved since its own began, and the end of those that were
-- dropped. With a table: only of the others that are still known by its name.
CREATE OR REPLACE FUNCTION realtime.follow(heir oid DEFAULT NULL) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100 ms' AS $f$
DECLARE
  o record;
BEGIN
  FOR o IN SELECT g, l.rel, d.fingerprint AS found FROM realtime.located() l JOIN realtime.generations g ON g.gen = l.gen
    LEFT JOIN LATERAL realtime.describe(l.rel) d ON true
    WHERE (d.fingerprint IS DISTINCT FROM g.fingerprint OR l.rel <> g.relid) AND (heir IS NULL OR g.relid <> heir
      AND (g.schema, g.name) = (SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = heir))
    ORDER BY g.gen
  LOOP
    IF o.found IS NOT NULL THEN
      PERFORM realtime.go_on(o.g, o.rel);
    ELSE
      PERFORM realtime.end_generation((o.g).gen);
    END IF;
  END LOOP;
END $f$;

-- Capture functions that no generation needs any more: a table that bears their trigger was in use when they were to go.
CREATE OR REPLACE FUNCTION realtime.left_over() RETURNS SETOF text LANGUAGE sql STABLE AS $f$
  SELECT DISTINCT f.capture FROM pg_proc p CROSS JOIN LATERAL (SELECT regexp_replace(p.proname, '_[a-z]*$', '') AS capture) f
  WHERE p.pronamespace = 'realtime'::regnamespace AND p.prorettype = 'trigger'::regtype
    AND EXISTS (SELECT FROM realtime.generations g WHERE g.capture = f.capture)
    AND NOT EXISTS (SELECT FROM realtime.generations g WHERE g.capture = f.capture AND NOT g.ended)
$f$;

-- Mends what can be mended without rights on the tables; says why where that is refused, and by which event trigger of the
-- application, if one is there: what forbids DDL forbids this too. Then nothing is mended, and capture goes on as it was.
CREATE OR REPLACE FUNCTION realtime.mend() RETURNS TABLE (refusal text, remedy text) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  o record; place text; more text;
BEGIN
  PERFORM realtime.drop_capture(l) FROM realtime.left_over() l;
  IF EXISTS (SELECT FROM realtime.generations g JOIN pg_class c ON c.oid = g.relid WHERE NOT g.ended AND g.captured <> g.relid) THEN
    PERFORM realtime.recapture();
  END IF;
  PERFORM realtime.follow();
  FOR o IN SELECT g, x.why, x.seen, x.labels FROM realtime.differences(ARRAY(SELECT n.gen FROM realtime.generations n WHERE NOT n.ended)) x
    JOIN realtime.generations g ON g.gen = x.gen ORDER BY g.gen
  LOOP
    IF o.why IS NULL THEN
      PERFORM realtime.note((o.g).gen, false, o.seen);
      UPDATE realtime.generations n SET labels = o.labels WHERE n.gen = (o.g).gen AND n.labels <> o.labels;
    ELSE
      PERFORM realtime.go_on(o.g, (o.g).relid);
      PERFORM realtime.note((SELECT max(n.gen) FROM realtime.generations n WHERE n.capture = (o.g).capture), true);
    END IF;
  END LOOP;
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS place = PG_EXCEPTION_CONTEXT, more = PG_EXCEPTION_DETAIL;
  RETURN QUERY SELECT concat(SQLERRM, ' (', split_part(place, E'\n', 1), ')', ': event trigger ' || t.forbids || ' (function ' || t.function || ') forbids it; it may let the role realtime_owner pass'),
      CASE WHEN t.forbids IS NULL THEN '' ELSE format('ALTER EVENT TRIGGER %1$s DISABLE; SELECT * FROM realtime.check(); ALTER EVENT TRIGGER %1$s ENABLE', t.forbids) END
    FROM (SELECT 1) one LEFT JOIN LATERAL (SELECT quote_ident(e.evtname) AS forbids, e.evtfoid::regprocedure::text AS function FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
      WHERE e.evtenabled <> 'D' AND strpos(place || more, p.proname) > 0 ORDER BY e.evtname LIMIT 1) t ON true;
END $f$;

-- After a restore, and in a copy: what is remembered of relations is of others, and so is the text of capture functions. Where
-- that may not be made anew the functions work as they are, only slower, and realtime.check() tells. Called by incarnate().
CREATE OR REPLACE FUNCTION realtime.settle() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  DELETE FROM realtime.relations;
  PERFORM realtime.note(g.gen, true) FROM realtime.generations g JOIN pg_class c ON c.oid = g.relid WHERE NOT g.ended;
  PERFORM FROM realtime.mend();
END $f$;

CREATE OR REPLACE FUNCTION realtime.check() RETURNS TABLE (gen int, schema text, name text, problem text, remedy text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100 ms' AS $f$
#variable_conflict use_column
DECLARE
  settled bool;
BEGIN
  IF NOT realtime.try_turn() THEN
    RETURN;
  END IF;
  -- In the midst of a restore tables have no triggers yet, and their watches would end: in a database whose incarnation is still
  -- another's, no table is looked at. Who serves here begins with incarnate().
  settled := coalesce((SELECT i.db = d.oid AND i.marker = 'realtime.alive'::regclass FROM realtime.incarnation i, pg_database d
      WHERE d.datname = current_database() ORDER BY i.n DESC LIMIT 1), true);
  IF settled THEN
    RETURN QUERY SELECT NULL::int, 'realtime', 'check()', format('the watched tables can''t be checked: %s', m.refusal), m.remedy FROM realtime.mend() m;
  END IF;
  RETURN QUERY SELECT g.gen, g.schema, g.name, p.problem,
      coalesce(p.remedy, format('SELECT realtime.watch(%L, routes => %L%s)', g.relid::regclass, g.routes, p.more))
    FROM realtime.generations g JOIN realtime.problems() p ON p.gen = g.gen WHERE settled
    UNION ALL SELECT NULL, 'realtime', 'events', format('subscription %s writes into the schema realtime, where each database has its own event log', quote_ident(s.subname)),
      format('ALTER SUBSCRIPTION %I SET PUBLICATION … (one of the publisher''s that is FOR TABLES IN SCHEMA of the application, not FOR ALL TABLES)', s.subname)
    FROM pg_subscription s WHERE EXISTS (SELECT FROM pg_subscription_rel p JOIN pg_class c ON c.oid = p.srrelid
      WHERE p.srsubid = s.oid AND c.relnamespace = 'realtime'::regnamespace)
    UNION ALL SELECT NULL, 'realtime', 'events', 'the event log holds events of transactions that are yet to come: the data of another database''s dump were restored into it',
      'BEGIN; TRUNCATE realtime.events; UPDATE realtime.event_log_state SET floor = realtime.floor_now(); COMMIT'
    WHERE EXISTS (SELECT FROM realtime.events e WHERE e.xid >= pg_snapshot_xmax(pg_current_snapshot()) AND e.xid IS DISTINCT FROM pg_current_xact_id_if_assigned())
    ORDER BY 1, 4;
END $f$;
