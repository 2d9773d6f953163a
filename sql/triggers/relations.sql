-- What tells that rows of a watched table changed behind its triggers: by a rewrite, by partitions that come and go with rows,
-- while triggers were off. Run as realtime_owner. The table realtime.relations has what was last seen of each relation.
--
-- Invariants: nothing here waits for a lock of others, or reads a row of theirs; what can't be told apart from a change counts
-- as one. In the catalog
-- - VACUUM FULL, CLUSTER, SET TABLESPACE and TRUNCATE give a relation new storage, SET STATISTICS and GRANT new rows of
--   its columns; only a rewrite of values does both;
-- - a column of the system (tableoid) is as old as its relation: one that was made as a partition has its place in
--   pg_inherits two commands later, and one that was attached later than that. Recovery knows no commands: what a crash
--   was after counts as attached.

-- The relations of these generations as they are now. `triggers` is how many capture, and which (null where one is off);
-- `covered`: a TRUNCATE of this relation alone is captured; `born`: it was made as a partition, so it came without rows.
CREATE OR REPLACE FUNCTION realtime.look(gens int[]) RETURNS TABLE (gen int, relid oid, root oid, filenode oid, columns int, triggers text, covered bool, born bool)
LANGUAGE sql STABLE AS $f$
  WITH RECURSIVE tree AS (
    SELECT g.gen, g.relid AS root, realtime.capture_functions(g.capture) AS functions, c.oid AS relid, c.relkind, c.relfilenode
    FROM realtime.generations g JOIN pg_class c ON c.oid = g.relid WHERE g.gen = ANY (gens)
    UNION ALL SELECT t.gen, t.root, t.functions, c.oid, c.relkind, c.relfilenode
    FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid JOIN pg_class c ON c.oid = i.inhrelid WHERE t.relkind = 'p')
  SELECT t.gen, t.relid, t.root, t.relfilenode,
    (SELECT hashtext(string_agg(concat(a.attnum, ' ', a.xmin, ' ', d.xmin), ',' ORDER BY a.attnum)) FROM pg_attribute a
      LEFT JOIN pg_attrdef d ON a.attgenerated <> '' AND d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = t.relid AND a.attnum > 0),
    g.triggers, coalesce(g.covered, false),
    t.relid <> t.root AND EXISTS (SELECT FROM pg_inherits i JOIN pg_attribute a ON a.attrelid = i.inhrelid AND a.attname = 'tableoid'
      WHERE i.inhrelid = t.relid AND i.xmin = a.xmin AND i.cmin::text::bigint - a.cmin::text::bigint IN (1, 2))
  FROM tree t CROSS JOIN LATERAL (SELECT
      CASE WHEN bool_and(g.tgenabled IN ('O', 'A')) FILTER (WHERE n.counts) THEN
        concat(count(*) FILTER (WHERE n.counts), ' ', string_agg(concat(g.tgname, g.xmin), ',' ORDER BY g.tgname) FILTER (WHERE n.counts)) END AS triggers,
      bool_or(g.tgtype & 32 <> 0 AND g.tgenabled IN ('O', 'A')) AS covered
    FROM pg_trigger g CROSS JOIN LATERAL (SELECT t.relid = t.root OR g.tgtype & 32 = 0 AS counts) n WHERE g.tgrelid = t.relid AND g.tgfoid = ANY (t.functions)) g
$f$;

-- Whether a relation holds no row, as its storage says; null where that can't be seen without waiting.
CREATE OR REPLACE FUNCTION realtime.is_empty(rel oid) RETURNS bool LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '20 ms' AS $f$
BEGIN
  RETURN pg_relation_size(rel) = 0;
EXCEPTION WHEN lock_not_available THEN
  RETURN NULL;
END $f$;

-- Whether no row of this generation was written since a transaction, as far as a short look at the event log shows.
CREATE OR REPLACE FUNCTION realtime.quiet(gen int, since xid8) RETURNS bool LANGUAGE sql STABLE AS $f$
  SELECT count(*) < 10000 AND count(*) FILTER (WHERE s.gen = quiet.gen AND s.op IN ('I', 'U')) = 0
  FROM (SELECT e.gen, e.op FROM realtime.events e WHERE e.xid >= since ORDER BY e.xid LIMIT 10000) s
$f$;

-- Remembers the relations of a generation as they are. Their triggers are remembered where all are as they should be, and
-- `whole` says that the generation covers what was written while they were not.
CREATE OR REPLACE FUNCTION realtime.note(gen int, whole bool) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
#variable_conflict use_column
<<here>>
DECLARE
  g realtime.generations := (SELECT o FROM realtime.generations o WHERE o.gen = note.gen);
  sound bool := NOT EXISTS (SELECT FROM realtime.wrong_triggers(g.relid, g.level, g.mark, g.capture, g.always) w WHERE NOT w.stray AND realtime.matters(g.relid, w.relid, w.name));
BEGIN
  DELETE FROM realtime.relations r WHERE r.gen IN (SELECT o.gen FROM realtime.generations o WHERE o.capture = g.capture AND o.gen <> g.gen)
    OR r.gen = g.gen AND r.relid NOT IN (SELECT l.relid FROM realtime.look(ARRAY[g.gen]) l);
  INSERT INTO realtime.relations AS r (gen, relid, filenode, columns, triggers, empty)
    SELECT l.gen, l.relid, l.filenode, l.columns, CASE WHEN sound THEN l.triggers END, CASE WHEN l.relid <> l.root THEN realtime.is_empty(l.relid) END
    FROM realtime.look(ARRAY[g.gen]) l
    ON CONFLICT ON CONSTRAINT relations_pkey DO UPDATE SET filenode = EXCLUDED.filenode, columns = EXCLUDED.columns, empty = EXCLUDED.empty,
      noted = EXCLUDED.noted, triggers = CASE WHEN note.whole THEN coalesce(EXCLUDED.triggers, r.triggers) ELSE r.triggers END;
  UPDATE realtime.generations o SET labels = t.labels FROM realtime.type_traits(g.relid) t WHERE o.gen = g.gen AND o.labels <> t.labels;
END $f$;

-- Whether a wrong trigger is worth a word: those on partitions that capture a TRUNCATE of the partition alone are a help.
CREATE OR REPLACE FUNCTION realtime.matters(root oid, rel oid, trigger text) RETURNS bool LANGUAGE sql IMMUTABLE AS $f$
  SELECT rel = root OR trigger !~ '^00_realtime_truncate'
$f$;

-- Those of these generations whose relations are not as they were noted: why rows may have changed untold, or null where none did.
CREATE OR REPLACE FUNCTION realtime.differences(gens int[]) RETURNS TABLE (gen int, why text) LANGUAGE sql VOLATILE AS $f$
  WITH live AS MATERIALIZED (SELECT g.gen, g.relid AS root, g.labels FROM realtime.generations g WHERE g.gen = ANY (gens)),
  d AS MATERIALIZED (
    SELECT coalesce(l.gen, r.gen) AS gen, l.relid AS now, r.relid AS before, l.root, l.born, l.covered, r.empty, r.noted, r.filenode,
      l.filenode <> r.filenode AS stored, l.columns IS DISTINCT FROM r.columns AS defined,
      l.triggers <> r.triggers AND split_part(l.triggers, ' ', 1) = split_part(r.triggers, ' ', 1) AS rehung
    FROM realtime.look(gens) l
    FULL JOIN (SELECT r.* FROM realtime.relations r WHERE r.gen = ANY (gens)) r ON r.gen = l.gen AND r.relid = l.relid)
  SELECT d.gen, CASE
    WHEN d.now = d.root AND d.before IS NULL THEN 'nothing is known of its past'
    WHEN d.before IS NULL THEN CASE WHEN NOT d.born AND realtime.is_empty(d.now) IS NOT TRUE THEN 'a partition came with rows' END
    WHEN d.now IS NULL THEN CASE WHEN EXISTS (SELECT FROM pg_class c WHERE c.oid = d.before AND c.relfilenode = d.filenode)
      THEN CASE WHEN realtime.is_empty(d.before) IS NOT TRUE THEN 'a partition left with rows' END
      WHEN d.empty IS NOT TRUE OR NOT realtime.quiet(d.gen, d.noted) THEN 'a partition was dropped' END
    WHEN d.stored AND d.defined THEN 'its rows were rewritten'
    WHEN d.rehung THEN 'its triggers were off'
    WHEN d.stored AND d.now <> d.root AND NOT d.covered AND d.empty IS NOT TRUE THEN 'a partition was emptied or rewritten' END
  FROM d WHERE d.now IS NULL OR d.before IS NULL OR d.stored OR d.defined OR d.rehung OR d.empty AND realtime.is_empty(d.now) IS FALSE
  UNION ALL SELECT l.gen, CASE WHEN NOT l.labels <@ t.labels THEN 'a label of an enum was renamed' END
  FROM live l CROSS JOIN LATERAL realtime.type_traits(l.root) t
  WHERE EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = l.root AND a.attnum > 0 AND a.atttypid >= 16384) AND l.labels <> t.labels
$f$;
