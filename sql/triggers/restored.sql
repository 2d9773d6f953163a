-- What a restore leaves behind, and what mends it. Run by whoever migrates, after roles.sql; rights.sql runs at the end of every migration.
-- - Without owners or rights (`pg_restore --no-owner --no-acl`), or where the roles were missing: the schema is another's.
-- - Without rows (`pg_dump --schema-only`): nothing says what the schema is, nor what was watched. It is emptied here, the
--   migrations that follow make it anew, and each table that bore triggers is named.
-- Invariant: what is as it should be is not touched.
DO $do$
DECLARE
  ours oid := to_regnamespace('realtime'); whole bool := false; o record;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  IF has_table_privilege(to_regclass('realtime.migrations'), 'UPDATE, DELETE, TRUNCATE') THEN
    LOCK TABLE realtime.migrations IN SHARE ROW EXCLUSIVE MODE;   -- where another migrator has made it since database.sql looked
  END IF;
  IF to_regclass('realtime.meta') IS NULL THEN
    RETURN;
  END IF;
  FOR o IN SELECT * FROM (
      SELECT 1 AS i, 'SCHEMA realtime' AS what, n.nspowner AS owner, 'realtime_owner' AS wanted FROM pg_namespace n WHERE n.oid = ours
      UNION ALL SELECT 2, concat(CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' WHEN 'c' THEN 'TYPE ' ELSE 'TABLE ' END, c.oid::regclass), c.relowner, 'realtime_owner'
      FROM pg_class c WHERE c.relnamespace = ours AND c.relkind IN ('r', 'p', 'S', 'c') AND NOT EXISTS (SELECT FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND c.relkind = 'S' AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))
      UNION ALL SELECT 3, 'ROUTINE ' || p.oid::regprocedure, p.proowner, CASE p.proname WHEN 'careful_json' THEN 'realtime_nobody' ELSE 'realtime_owner' END
      FROM pg_proc p WHERE p.pronamespace = ours AND NOT (p.proname = 'timelines' AND (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = p.proowner))
    ) a WHERE pg_get_userbyid(a.owner) <> a.wanted ORDER BY a.i, a.what
  LOOP
    IF o.wanted = 'realtime_nobody' THEN
      GRANT CREATE ON SCHEMA realtime TO realtime_nobody;
    END IF;
    EXECUTE format('ALTER %s OWNER TO %I', o.what, o.wanted);
    IF o.wanted = 'realtime_nobody' THEN
      REVOKE CREATE ON SCHEMA realtime FROM realtime_nobody;
    END IF;
  END LOOP;
  FOR o IN SELECT p.oid::regprocedure AS f, CASE p.proname WHEN 'careful_json' THEN 'realtime_owner, realtime_reader' ELSE 'realtime_reader' END AS whom
    FROM pg_proc p WHERE p.pronamespace = ours AND p.proname IN ('careful_json', 'timelines')
      AND (has_function_privilege('public', p.oid, 'EXECUTE') OR NOT has_function_privilege('realtime_reader', p.oid, 'EXECUTE'))
  LOOP
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', o.f);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', o.f, o.whom);
  END LOOP;

  IF to_regclass('realtime.migrations') IS NOT NULL THEN
    whole := EXISTS (SELECT FROM realtime.meta) AND EXISTS (SELECT FROM realtime.migrations);
    IF NOT whole THEN
      DELETE FROM realtime.migrations;
    END IF;
  END IF;
  IF whole THEN
    RETURN;
  END IF;
  FOR o IN SELECT DISTINCT t.tgrelid::regclass AS rel FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE p.pronamespace = ours AND t.tgparentid = 0 AND t.tgtype & 4 <> 0 ORDER BY 1
  LOOP
    RAISE WARNING '% was watched where this copy comes from, and the copy does not say how (it has no rows): to put it on the air again: SELECT realtime.watch(%)',
      o.rel, quote_literal(o.rel);
  END LOOP;
  FOR o IN SELECT format('DROP FUNCTION %s CASCADE', p.oid::regprocedure) AS sql FROM pg_proc p
    WHERE p.pronamespace = ours AND p.prorettype = 'trigger'::regtype
  LOOP
    EXECUTE o.sql;
  END LOOP;
  FOR o IN
    SELECT 1 AS i, 'DROP ROUTINE ' || string_agg(p.oid::regprocedure::text, ', ') AS sql FROM pg_proc p
      WHERE p.pronamespace = ours AND p.prorettype <> 'trigger'::regtype
    UNION ALL SELECT 2, 'DROP TABLE ' || string_agg(c.oid::regclass::text, ', ') FROM pg_class c
      WHERE c.relnamespace = ours AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'migrations'
    UNION ALL SELECT 3, 'DROP TYPE ' || string_agg(c.oid::regclass::text, ', ') FROM pg_class c WHERE c.relnamespace = ours AND c.relkind = 'c'
    UNION ALL SELECT 4, 'DROP SEQUENCE ' || string_agg(c.oid::regclass::text, ', ') FROM pg_class c WHERE c.relnamespace = ours AND c.relkind = 'S'
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))
    ORDER BY 1
  LOOP
    IF o.sql IS NOT NULL THEN
      EXECUTE o.sql;
    END IF;
  END LOOP;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE EXCEPTION 'schema realtime is another''s, as after a restore without owners: migrate as a superuser, or as the role that restored it (%)', SQLERRM
    USING ERRCODE = 'insufficient_privilege';
END $do$;
