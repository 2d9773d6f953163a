-- name: session
-- What every session relies on, whatever the database or the role has as defaults. Settings that this server's version
-- lacks are left out. A session that may be a pooler's, and so the application's next, keeps none of them beyond the
-- transaction: a pooler gives its client another process id than the session has. Nothing of an owner's may come in a table's
-- place while its rows are read: no view (a schema can be renamed beneath a lock), no policy, no temporary table.
SELECT pg_catalog.set_config(s.name, s.value, NOT (%(proven)s OR pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) %(pid)s))
FROM (VALUES
  ('search_path', 'pg_catalog, pg_temp'), ('restrict_nonsystem_relation_kind', 'view'), ('row_security', 'off'), ('default_transaction_isolation', 'read committed'),
  ('default_transaction_read_only', 'off'), ('default_transaction_deferrable', 'off'),
  ('statement_timeout', '60s'), ('lock_timeout', '10s'), ('transaction_timeout', '0'),
  ('idle_session_timeout', '0'), ('idle_in_transaction_session_timeout', '60s'),
  ('TimeZone', 'UTC'), ('DateStyle', 'ISO, YMD'), ('IntervalStyle', 'iso_8601'), ('bytea_output', 'hex'), ('lc_monetary', 'C'), ('quote_all_identifiers', 'off'),
  ('extra_float_digits', '1'), ('standard_conforming_strings', 'on'), ('jit', 'off')
) s(name, value)
WHERE pg_catalog.current_setting(s.name, true) IS NOT NULL

-- name: notice_dead_peer
-- PostgreSQL looks this often, while it runs a statement, whether its client is still there.
SELECT pg_catalog.set_config('client_connection_check_interval', '2s', NOT (%(proven)s OR pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) %(pid)s))
