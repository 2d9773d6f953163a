-- name: try_to_lead
-- The leader's advisory lock.
SELECT realtime.try_to_lead()

-- name: two_phase
SELECT current_setting('max_prepared_transactions')::int

-- name: strangers
-- The sessions of roles that are none of ours and hold a lock that only a server needs, and what ends them.
SELECT s.pid, s.who::text, s.lock, format('SELECT pg_terminate_backend(%s)', s.pid) FROM realtime.strangers() s

-- name: check_watches
SELECT c.schema, c.name, c.problem, c.remedy FROM realtime.check() c

-- name: end_leader
-- Ends the sessions of ours that hold advisory lock 1, the gate, and the leader's. A leader that has kept house in the
-- seconds given is spared: its beats are late, behind other notifications or on a connection that is down, and those of
-- another leader would be no earlier. Those of other roles are left alone: they keep nobody from leading.
WITH l AS MATERIALIZED (
  SELECT DISTINCT l.pid, l.objid <> 1 AS leads FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid, realtime.leadership k
  WHERE l.locktype = 'advisory' AND l.granted AND l.pid <> pg_backend_pid() AND l.classid = 1919247220 AND l.objsubid = 2
    AND (l.objid = 1 AND l.mode = 'ExclusiveLock' OR l.objid::bigint = k.key)
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND pg_has_role(a.usesysid, 'realtime_reader', 'MEMBER')
)
SELECT pid
FROM (SELECT DISTINCT pid FROM l) l
WHERE NOT EXISTS (
    SELECT FROM l JOIN pg_stat_activity a USING (pid)
    WHERE l.leads AND a.state_change > clock_timestamp() - make_interval(secs => %(kept)s))
  AND pg_terminate_backend(pid)
