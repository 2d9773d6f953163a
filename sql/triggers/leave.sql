-- What roles.sql made, and Alembic's table: at `base` nothing of ours is left. Run by whoever migrates, last.
-- Invariant: a role is dropped only where we made it and no database uses it. Where another migrator made it, or another
-- database has just begun to use it, it stays.
DROP TABLE IF EXISTS realtime.migrations;
DROP SCHEMA IF EXISTS realtime;
DO $do$
DECLARE
  role text;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  FOR role IN SELECT r.rolname FROM pg_roles r WHERE r.rolname IN ('realtime_reader', 'realtime_owner', 'realtime_nobody')
    AND shobj_description(r.oid, 'pg_authid') = 'Sobranie Realtime'
    AND NOT EXISTS (SELECT FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid)
  LOOP
    BEGIN
      EXECUTE format('DROP ROLE %I', role);
    EXCEPTION WHEN insufficient_privilege OR dependent_objects_still_exist THEN
      NULL;
    END;
  END LOOP;
END $do$;
