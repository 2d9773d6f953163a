-- name: listen
-- The channel on which writers notify that can't share the gate.
LISTEN realtime

-- name: short_wait
-- How long a request for the gate may stay queued.
SELECT set_config('lock_timeout', '50ms', false)

-- name: close_gate
-- Advisory lock 1, the gate: 1919247220 is the product's own number for its advisory locks.
SELECT pg_advisory_lock(1919247220, 1)

-- name: open_gate
SELECT pg_advisory_unlock(1919247220, 1)

-- name: look_at_gate
-- Whether this session holds advisory lock 1, the gate, and whether writers had better not notify: because some session
-- waits to, or because the queue of notifications fills up, and a full one fails the transaction that notifies.
-- Transactions that notify commit one at a time, those of all databases together, under the lock that is asked for in the
-- second column.
SELECT coalesce(bool_or(l.granted AND l.pid = pg_backend_pid() AND l.locktype = 'advisory' AND l.mode = 'ExclusiveLock'
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND l.classid = 1919247220 AND l.objid = 1 AND l.objsubid = 2), false),
       coalesce(bool_or(NOT l.granted AND l.locktype = 'object' AND l.database = 0
         AND l.classid = 'pg_database'::regclass AND l.objid = 0), false) OR pg_notification_queue_usage() > 0.1
FROM pg_locks l
