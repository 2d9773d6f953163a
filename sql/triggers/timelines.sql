-- realtime.timelines(): where each history that led to the present one was left, from PostgreSQL's own record of it
-- (the .history file of the timeline). With it a position holds through a promotion if, and only if, all that it
-- contains came along. Run as a superuser where the migrator is one, else as realtime_owner, who may not read the file:
-- there it says nothing, and a promotion resets everybody.
--
-- Invariant: it takes no argument and shows nothing but numbers of timelines and WAL positions.
CREATE OR REPLACE FUNCTION realtime.timelines() RETURNS TABLE (tli int, ended pg_lsn) LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  RETURN QUERY SELECT m[1]::int, m[2]::pg_lsn FROM regexp_matches(
    pg_read_file(format('pg_wal/%s.history', left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)), 0, 1048576, true),
    '^\s*([0-9]+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)', 'gn') m;
EXCEPTION WHEN insufficient_privilege THEN
  RETURN;
END $f$;
REVOKE ALL ON FUNCTION realtime.timelines() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION realtime.timelines() TO realtime_reader;
