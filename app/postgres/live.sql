-- name: log
SELECT f.tableoid::bigint FROM realtime.log_state f
