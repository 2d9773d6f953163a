-- name: listen
LISTEN realtime

-- name: short_wait
SELECT set_config('lock_timeout', '50ms', false)

-- name: close_gate
SELECT pg_advisory_lock(1919247220, 1)

-- name: open_gate
SELECT pg_advisory_unlock(1919247220, 1)

-- name: gate
-- Whether advisory lock 1, the gate, is held, and whether somebody waits to notify: commits with notifications go one at a
-- time, of all databases.
SELECT coalesce(bool_or(l.granted AND l.pid = pg_backend_pid() AND l.locktype = 'advisory' AND l.mode = 'ExclusiveLock'
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND l.classid = 1919247220 AND l.objid = 1 AND l.objsubid = 2), false),
       coalesce(bool_or(NOT l.granted AND l.locktype = 'object' AND l.database = 0
         AND l.classid = 'pg_database'::regclass AND l.objid = 0), false)
FROM pg_locks l
