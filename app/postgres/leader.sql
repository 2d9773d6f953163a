-- name: try_to_lead
-- Advisory lock 2, the leader's.
SELECT pg_try_advisory_lock(1919247220, 2)

-- name: two_phase
SELECT current_setting('max_prepared_transactions')::int

-- name: check_watches
SELECT c.schema, c.name, c.problem, c.remedy FROM realtime.check() c

-- name: end_leader
-- Ends the sessions that hold advisory lock 1, the gate, and advisory lock 2, the leader's. A leader that has kept house
-- in the seconds given is spared: its beats are late, behind other notifications or on a connection that is down, and
-- those of another leader would be no earlier.
WITH l AS MATERIALIZED (
  SELECT DISTINCT pid, objid FROM pg_locks
  WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock' AND pid <> pg_backend_pid()
    AND classid = 1919247220 AND objid IN (1, 2) AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT pid
FROM (SELECT DISTINCT pid FROM l) l
WHERE NOT EXISTS (
    SELECT FROM l JOIN pg_stat_activity a USING (pid)
    WHERE l.objid = 2 AND a.state_change > clock_timestamp() - make_interval(secs => %(kept)s))
  AND pg_terminate_backend(pid)
