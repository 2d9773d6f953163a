-- Whether this database can be worked with, and is ours or nobody's. Run by whoever migrates, before anything else.
-- Invariants: it changes nothing, and what it finds wrong it says in one line that tells what mends it; from here to the
-- end of the transaction no other migrator runs, by the lock of Alembic's table. Where that table is not there yet, who makes the schema first goes first (roles.sql).
DO $do$
DECLARE
  ours pg_catalog.oid; mark text; revision text; other text;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  IF current_setting('server_version_num')::int < 150000 THEN
    RAISE EXCEPTION 'PostgreSQL 15 or newer is needed';
  ELSIF current_setting('server_encoding') <> 'UTF8' THEN
    RAISE EXCEPTION 'this database has the encoding %, and UTF8 is needed: rows go out as JSON', current_setting('server_encoding');
  ELSIF pg_is_in_recovery() THEN
    RAISE EXCEPTION 'this server is a standby: migrations run on the primary';
  END IF;
  SELECT n.oid, obj_description(n.oid, 'pg_namespace'), r.rolname INTO ours, mark, other FROM pg_namespace n LEFT JOIN pg_roles r ON r.oid = n.nspowner
      AND NOT r.rolsuper AND r.rolname NOT IN ('realtime_owner', current_user) AND (SELECT u.rolsuper FROM pg_roles u WHERE u.rolname = current_user)
    WHERE n.nspname = 'realtime';
  IF ours IS NOT NULL AND mark IS DISTINCT FROM 'Sobranie Realtime' THEN
    RAISE EXCEPTION 'this database has a schema "realtime" that is not ours (Supabase makes one, say): nothing was changed';
  ELSIF other IS NOT NULL THEN   -- who may create schemas can put one here before us: a view or a trigger of his would run with our rights
    RAISE EXCEPTION 'schema realtime belongs to %, who is no superuser, and what that role made in it would run with your rights: migrate as %, or, where you trust all that is in it, run first: ALTER SCHEMA realtime OWNER TO CURRENT_USER',
      quote_ident(other), quote_ident(other) USING ERRCODE = 'insufficient_privilege';
  END IF;
  LOOP
    EXIT WHEN has_schema_privilege(to_regnamespace('realtime'), 'USAGE') IS NOT TRUE;
    EXIT WHEN has_table_privilege(to_regclass('realtime.migrations'), 'UPDATE, DELETE, TRUNCATE') IS NOT TRUE;
    BEGIN
      LOCK TABLE realtime.migrations IN SHARE ROW EXCLUSIVE MODE;
      EXIT;
    EXCEPTION WHEN undefined_table OR invalid_schema_name THEN
      NULL;   -- it went while we waited
    END;
  END LOOP;
  ours := to_regnamespace('realtime');
  IF EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = ours AND c.relname = 'migrations'
      AND has_schema_privilege(ours, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')) THEN
    SELECT m.version_num INTO revision FROM realtime.migrations m WHERE m.version_num ~ '^00[1-5]$';
    IF revision IS NOT NULL THEN
      RAISE EXCEPTION 'this database''s schema "realtime" was made before the first release (revision %), and nothing leads from there: run `DROP SCHEMA realtime CASCADE` in it (no table of yours goes, but each has to be watched anew) and migrate again; an embedded database can also be deleted whole, with its directory .data',
        revision;
    END IF;
  END IF;
END $do$;
