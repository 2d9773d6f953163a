-- name: listen_bus
LISTEN realtime_bus

-- name: notify_bus
SELECT pg_notify('realtime_bus', %(message)s)

-- name: count_listeners
-- How many servers listen to the bus.
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'sobranie bus listener'

-- name: answer
-- Whatever is alive answers this.
SELECT 1
