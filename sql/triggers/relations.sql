-- What tells that rows of a watched table changed behind its triggers: by a rewrite, by partitions that come and go with rows,
-- while triggers were off. Run as realtime_owner. The table realtime.relations has what was last seen of each relation.
--
-- Invariants: nothing here waits for a lock of others, or reads a row of theirs; what can't be told apart from a change counts
-- as one; what is noted without a new generation is what was compared, never a later look: a change that commits in between
-- would count as seen, and nobody would be told. In the catalog
-- - VACUUM FULL, CLUSTER, SET TABLESPACE and TRUNCATE give a relation new storage, SET STATISTICS and GRANT new rows of
--   its columns; only a rewrite of values does both;
-- - a column of the system (tableoid) is as old as its relation: one that was made as a partition has its place in
--   pg_inherits two commands later, and one that was attached later than that. Recovery knows no commands: what a crash
--   was after counts as attached.

-- A relation of a generation as it is. `triggers` is how many capture, and which (null where one is off);
-- `covered`: a TRUNCATE of this relation alone is captured; `born`: it was made as a partition, so it came without rows.
DO $do$
BEGIN
  IF to_regtype('realtime.seen') IS NULL THEN
    CREATE TYPE realtime.seen AS (gen int, relid oid, root oid, filenode oid, columns int, triggers text, covered bool, born bool);
  END IF;
END $do$;

-- The relations of these generations as they are now.
CREATE OR REPLACE FUNCTION realtime.look(gens int[]) RETURNS SETOF realtime.seen LANGUAGE sql STABLE AS $f$
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

-- Whether a relation holds no row, as this storage of it says; null where that can't be seen without waiting, or where it has
-- another storage by now. The size comes first: what it says is then of this storage.
CREATE OR REPLACE FUNCTION realtime.is_empty(rel oid, filenode oid) RETURNS bool LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '20 ms' AS $f$
DECLARE
  bytes bigint := pg_relation_size(rel);
BEGIN
  RETURN CASE WHEN coalesce(pg_relation_filenode(rel), 0) = filenode THEN bytes = 0 END;
EXCEPTION WHEN lock_not_available THEN
  RETURN NULL;
END $f$;

-- Whether no row of this generation was written since a transaction, as far as a short look at the event log shows.
CREATE OR REPLACE FUNCTION realtime.quiet(gen int, since xid8) RETURNS bool LANGUAGE sql STABLE AS $f$
  SELECT count(*) < 10000 AND count(*) FILTER (WHERE s.gen = quiet.gen AND s.op IN ('I', 'U')) = 0
  FROM (SELECT e.gen, e.op FROM realtime.events e WHERE e.xid >= since ORDER BY e.xid LIMIT 10000) s
$f$;

-- Remembers the relations of a generation as they were `seen`, or where a generation begins with it, as they are. Their triggers
-- are remembered where all are as they should be, and `whole` says that the generation covers what was written while they
-- were not. Whoever writes later is no older than the oldest that is open now.
CREATE OR REPLACE FUNCTION realtime.note(gen int, whole bool, seen realtime.seen[] DEFAULT NULL) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
#variable_conflict use_column
<<here>>
DECLARE
  g realtime.generations := (SELECT o FROM realtime.generations o WHERE o.gen = note.gen);
  known realtime.seen[]; sound bool;
BEGIN
  SELECT coalesce(note.seen, ARRAY(SELECT l FROM realtime.look(ARRAY[g.gen]) l)),
    NOT EXISTS (SELECT FROM realtime.wrong_triggers(g.relid, g.level, g.mark, g.capture, g.always) w WHERE NOT w.stray AND realtime.matters(g.relid, w.relid, w.name))
    INTO here.known, here.sound;   -- in one statement, so of one moment
  DELETE FROM realtime.relations r WHERE r.gen IN (SELECT o.gen FROM realtime.generations o WHERE o.capture = g.capture AND o.gen <> g.gen)
    OR r.gen = g.gen AND r.relid NOT IN (SELECT l.relid FROM unnest(known) l);
  INSERT INTO realtime.relations AS r (gen, relid, filenode, columns, triggers, empty, noted)
    SELECT g.gen, l.relid, l.filenode, l.columns, CASE WHEN sound THEN l.triggers END,
      CASE WHEN l.relid <> l.root THEN realtime.is_empty(l.relid, l.filenode) END, pg_snapshot_xmin(pg_current_snapshot())
    FROM unnest(known) l
    ON CONFLICT ON CONSTRAINT relations_pkey DO UPDATE SET filenode = EXCLUDED.filenode, columns = EXCLUDED.columns, empty = EXCLUDED.empty,
      noted = EXCLUDED.noted, triggers = CASE WHEN note.whole THEN coalesce(EXCLUDED.triggers, r.triggers) ELSE r.triggers END;
END $f$;

-- Whether a wrong trigger is worth a word: those on partitions that capture a TRUNCATE of the partition alone are a help.
CREATE OR REPLACE FUNCTION realtime.matters(root oid, rel oid, trigger text) RETURNS bool LANGUAGE sql IMMUTABLE AS $f$
  SELECT rel = root OR trigger !~ '^00_realtime_truncate'
$f$;

-- Those of these generations whose relations are not as they were noted: why rows may have changed untold, or null where none did,
-- and what is to be noted then: all of one statement, so of one moment. A generation whose table is gone is not among them.
CREATE OR REPLACE FUNCTION realtime.differences(gens int[]) RETURNS TABLE (gen int, why text, seen realtime.seen[], labels text[]) LANGUAGE sql VOLATILE AS $f$
  WITH live AS MATERIALIZED (SELECT g.gen, g.relid AS root, g.labels FROM realtime.generations g WHERE g.gen = ANY (gens)),
  looked AS MATERIALIZED (SELECT l AS seen, l.* FROM realtime.look(gens) l),
  d AS MATERIALIZED (
    SELECT coalesce(l.gen, r.gen) AS gen, l.relid AS now, r.relid AS before, l.root, l.born, l.covered, r.empty, r.noted, r.filenode, l.filenode AS current,
      l.filenode <> r.filenode AS stored, l.columns IS DISTINCT FROM r.columns AS defined,
      l.triggers <> r.triggers AND split_part(l.triggers, ' ', 1) = split_part(r.triggers, ' ', 1) AS rehung
    FROM looked l
    FULL JOIN (SELECT r.* FROM realtime.relations r WHERE r.gen = ANY (gens)) r ON r.gen = l.gen AND r.relid = l.relid),
  found AS (SELECT d.gen, CASE
    WHEN d.now = d.root AND d.before IS NULL THEN 'nothing is known of its past'
    WHEN d.before IS NULL THEN CASE WHEN NOT d.born AND realtime.is_empty(d.now, d.current) IS NOT TRUE THEN 'a partition came with rows' END
    WHEN d.now IS NULL THEN CASE WHEN EXISTS (SELECT FROM pg_class c WHERE c.oid = d.before AND c.relfilenode = d.filenode)
      THEN CASE WHEN realtime.is_empty(d.before, d.filenode) IS NOT TRUE THEN 'a partition left with rows' END
      WHEN d.empty IS NOT TRUE OR NOT realtime.quiet(d.gen, d.noted) THEN 'a partition was dropped' END
    WHEN d.stored AND d.defined THEN 'its rows were rewritten'
    WHEN d.rehung THEN 'its triggers were off'
    WHEN d.stored AND d.now <> d.root AND NOT d.covered AND d.empty IS NOT TRUE THEN 'a partition was emptied or rewritten' END AS why, NULL::text[] AS labels
  FROM d WHERE d.now IS NULL OR d.before IS NULL OR d.stored OR d.defined OR d.rehung OR d.empty AND realtime.is_empty(d.now, d.current) IS FALSE
  UNION ALL SELECT l.gen, CASE WHEN NOT l.labels <@ t.labels THEN 'a label of an enum was renamed' END, t.labels
  FROM live l CROSS JOIN LATERAL realtime.type_traits(l.root) t
  WHERE EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = l.root AND a.attnum > 0 AND a.atttypid >= 16384) AND l.labels <> t.labels)
  SELECT f.gen, f.why, s.seen, f.labels
  FROM (SELECT gen, min(why) AS why, max(labels) AS labels FROM found GROUP BY gen) f
  JOIN (SELECT gen, array_agg(looked.seen) AS seen FROM looked GROUP BY gen) s ON s.gen = f.gen
$f$;
