-- name: head
-- The snapshot, the floor, the highest transaction with an event, how far the WAL is written, and whether all changes that the
-- snapshot sees are in the event log, of one moment.
SELECT s.s::text, f.floor::text, (SELECT max(e.xid) FROM realtime.events e), s.lsn, realtime.fuse() = f.healed
FROM (SELECT pg_current_snapshot() AS s, (pg_current_wal_insert_lsn() - '0/0')::bigint AS lsn) s
CROSS JOIN realtime.event_log_state f
