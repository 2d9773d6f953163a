-- name: flushed
SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint

-- name: flush
-- From PostgreSQL 17 on: a message of no transaction, flushed before the call returns.
SELECT pg_logical_emit_message(false, 'realtime', '', true)

-- name: flush_by_commit
-- Before 17: a message of a transaction, whose commit is flushed.
SELECT pg_logical_emit_message(true, 'realtime', '')
FROM (SELECT set_config('synchronous_commit', 'local', true)) s
