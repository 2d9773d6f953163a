-- The roles realtime_owner, realtime_reader and realtime_nobody (as whom owners' casts run), and schema realtime, where missing. Run by whoever migrates.
-- Invariants: what we make says so in a comment, by which leave.sql knows it; roles belong to the whole cluster, so another
-- database may have made them, and then they stay as they are.
DO $do$
DECLARE
  role text;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  BEGIN
    FOREACH role IN ARRAY '{realtime_owner,realtime_reader,realtime_nobody}'::text[] LOOP
      IF to_regrole(role) IS NULL THEN
        BEGIN
          EXECUTE format('CREATE ROLE %I NOLOGIN', role);
          EXECUTE format('COMMENT ON ROLE %I IS %L', role, 'Sobranie Realtime');
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
          NULL;   -- another migrator's, here or in another database, who has just committed
        END;
      END IF;
    END LOOP;
    IF NOT pg_has_role('realtime_owner', 'USAGE') THEN
      GRANT realtime_owner TO CURRENT_USER;
    END IF;
    IF NOT pg_has_role('realtime_owner', 'realtime_nobody', 'MEMBER') THEN
      GRANT realtime_nobody TO realtime_owner;
    END IF;
  EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION 'role % can''t make the roles that are needed; give it CREATEROLE, or have an administrator run: CREATE ROLE realtime_owner NOLOGIN; CREATE ROLE realtime_reader NOLOGIN; CREATE ROLE realtime_nobody NOLOGIN; GRANT realtime_nobody TO realtime_owner; GRANT realtime_owner TO %;',
      quote_ident(current_user), quote_ident(current_user) USING ERRCODE = 'insufficient_privilege';
  END;
  IF to_regnamespace('realtime') IS NULL THEN
    IF NOT has_database_privilege(current_database(), 'CREATE') THEN
      RAISE EXCEPTION 'this role may not create a schema here: GRANT CREATE ON DATABASE % TO it', quote_ident(current_database())
        USING ERRCODE = 'insufficient_privilege';
    END IF;
    BEGIN
      CREATE SCHEMA realtime AUTHORIZATION realtime_owner;
      COMMENT ON SCHEMA realtime IS 'Sobranie Realtime';
    EXCEPTION WHEN duplicate_schema OR unique_violation THEN   -- another migrator's, for whose end this one has waited
      IF NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = 'realtime' AND n.nspowner = 'realtime_owner'::regrole) THEN
        RAISE EXCEPTION 'schema realtime has just been made by another role: migrate again';
      END IF;
    END;
  END IF;
END $do$;
