-- name: floor
-- The floor of the event log; no row while it is being replaced.
SELECT f.floor::text FROM realtime.event_log_state f
