-- name: listen_bus
LISTEN realtime_bus

-- name: notify_bus
SELECT pg_notify('realtime_bus', %(message)s)

-- name: is_ours
-- Whether a session is one of our roles'. PostgreSQL says which session sent a notification, and that can't be forged.
SELECT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = %(pid)s AND pg_has_role(a.usesysid, 'realtime_reader', 'MEMBER'))

-- name: count_listeners
-- How many servers listen to the bus.
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'sobranie bus listener'

-- name: answer
-- Whatever is alive answers this.
SELECT 1
