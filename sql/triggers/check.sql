-- realtime.check(): finds what ALTER, DROP, ATTACH and friends did to watched tables, which no trigger tells.
-- Run as realtime_owner; the server calls it from time to time (EXECUTE for realtime_reader).
--
-- Invariants: what it can mend without rights on the table it mends, by a new generation; the rest it returns with
-- the SQL that mends it. It writes nothing when nothing changed, and never waits for a watch that is under way.

-- Where each live generation's table is now: the table whose triggers call its capture function (an oid does not
-- survive a dump), else the table of the same oid and name, else null.
CREATE OR REPLACE FUNCTION realtime.located() RETURNS TABLE (gen int, rel oid) LANGUAGE sql STABLE AS $f$
  SELECT g.gen, coalesce(
    (SELECT t.tgrelid FROM pg_depend d JOIN pg_trigger t ON t.oid = d.objid
      JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE d.classid = 'pg_trigger'::regclass AND d.refclassid = 'pg_proc'::regclass AND t.tgparentid = 0
        AND d.refobjid = to_regproc(format('realtime.%I', g.capture))
        AND t.tgtype & 4 <> 0
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

CREATE OR REPLACE FUNCTION realtime.check() RETURNS TABLE (gen int, schema text, name text, problem text, remedy text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
#variable_conflict use_column
DECLARE
  o record;
BEGIN
  IF NOT pg_try_advisory_xact_lock(1919247220, 3) THEN
    RETURN;
  END IF;
  FOR o IN SELECT g.*, l.rel, d.fingerprint AS found FROM realtime.located() l JOIN realtime.generations g ON g.gen = l.gen
    LEFT JOIN LATERAL realtime.describe(l.rel) d ON true
    WHERE d.fingerprint IS DISTINCT FROM g.fingerprint OR l.rel <> g.relid ORDER BY g.gen
  LOOP
    IF o.found IS NULL THEN
      PERFORM realtime.end_generation(o.gen);
    ELSE
      PERFORM realtime.begin_generation(o.rel, ARRAY(SELECT r FROM unnest(o.routes) WITH ORDINALITY u(r, i)
        WHERE realtime.still_route(o.rel, r) ORDER BY i), o.level, o.mark, o.gen);
    END IF;
  END LOOP;
  RETURN QUERY SELECT g.gen, g.schema, g.name, p.problem,
      coalesce(p.remedy, format('SELECT realtime.watch(%L, routes => %L)', g.relid::regclass, g.routes))
    FROM realtime.generations g CROSS JOIN LATERAL realtime.describe(g.relid) d CROSS JOIN LATERAL (
      SELECT 'changes are captured by ' || CASE g.level WHEN 's' THEN 'statement' ELSE 'row' END || ', and now have to be by ' ||
        CASE d.level WHEN 's' THEN 'statement' ELSE 'row' END, NULL WHERE d.level <> g.level AND d.level = 'r'
      UNION ALL SELECT 'a trigger or a cascading foreign key was added: the order of nested changes needs a mark', NULL WHERE d.mark AND NOT g.mark
      UNION ALL SELECT CASE WHEN c.relpersistence = 'u' THEN 'the table became unlogged' ELSE 'other tables inherit from it' END, NULL
        FROM pg_class c WHERE c.oid = g.relid AND (c.relpersistence = 'u'
          OR c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid))
      UNION ALL SELECT CASE WHEN t.stray THEN format('table %s bears the capture trigger %I of this one, as one does that was restored or copied: nothing of it is captured',
          t.relid::regclass, t.name) ELSE format('trigger %I on %s %s', t.name, t.relid::regclass, t.problem) END,
          CASE WHEN t.stray THEN format('DROP TRIGGER %I ON %s', t.name, t.relid::regclass) END
        FROM realtime.wrong_triggers(g.relid, g.level, g.mark, g.capture) t) p(problem, remedy)
    WHERE NOT g.ended ORDER BY g.gen, p.problem;
END $f$;

-- Whether all columns of a route still exist with a type that can be one.
CREATE OR REPLACE FUNCTION realtime.still_route(rel oid, route text) RETURNS bool LANGUAGE sql STABLE AS $f$
  SELECT bool_and(a.attname IS NOT NULL AND a.attgenerated <> 'v' AND realtime.spelling(a.atttypid, a.atttypmod, a.attcollation) IS NOT NULL)
    AND array_agg(c) IS DISTINCT FROM (SELECT d.key FROM realtime.describe(rel) d)
  FROM unnest(realtime.route_columns(route)) c
  LEFT JOIN pg_attribute a ON a.attrelid = rel AND a.attname = c AND a.attnum > 0 AND NOT a.attisdropped
$f$;
