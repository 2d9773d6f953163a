-- name: session
-- What every session relies on, whatever the database or the role has as defaults. Settings that this server's version
-- lacks are left out.
SELECT pg_catalog.set_config(s.name, s.value, false)
FROM (VALUES
  ('search_path', 'pg_catalog'), ('default_transaction_isolation', 'read committed'),
  ('default_transaction_read_only', 'off'), ('default_transaction_deferrable', 'off'),
  ('statement_timeout', '60s'), ('lock_timeout', '10s'), ('transaction_timeout', '0'),
  ('idle_session_timeout', '0'), ('idle_in_transaction_session_timeout', '60s'),
  ('TimeZone', 'UTC'), ('DateStyle', 'ISO, YMD'), ('IntervalStyle', 'iso_8601'), ('bytea_output', 'hex'), ('lc_monetary', 'C'), ('quote_all_identifiers', 'off'),
  ('extra_float_digits', '1'), ('standard_conforming_strings', 'on'), ('jit', 'off')
) s(name, value)
WHERE pg_catalog.current_setting(s.name, true) IS NOT NULL

-- name: notice_dead_peer
-- PostgreSQL looks this often, while it runs a statement, whether its client is still there.
SELECT set_config('client_connection_check_interval', '2s', false)
