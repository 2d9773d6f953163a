-- name: floor
-- The floor of the event log, and the opening of the fuse that is not healed; no row while it is being replaced.
SELECT f.floor::text, CASE WHEN realtime.fuse() <> f.healed THEN realtime.fuse() END FROM realtime.event_log_state f
