-- name: flushed
-- How far the WAL is durable.
SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint

-- name: flush
-- PostgreSQL 17 and newer flush a message that belongs to no transaction before the call returns.
SELECT pg_logical_emit_message(false, 'realtime', '', true)

-- name: flush_by_commit
-- Before 17 the message belongs to a transaction, whose commit is flushed.
SELECT pg_logical_emit_message(true, 'realtime', '')
FROM (SELECT set_config('synchronous_commit', 'local', true)) s
