-- name: log
SELECT f.tableoid::bigint FROM realtime.event_log_state f
