-- name: recovering
SELECT pg_is_in_recovery(), current_setting('server_version')

-- name: schema
-- Whether the schema is there, and whether its keys are, which a restore makes last.
SELECT to_regclass('realtime.meta') IS NOT NULL,
       EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = to_regclass('realtime.relations') AND c.contype = 'p')

-- name: version
SELECT m.version, m.compatible_from FROM realtime.meta m

-- name: privileges
-- The privileges that the server's role needs and does not have.
SELECT p.what
FROM (
  SELECT 'SELECT on ' || t AS what, has_table_privilege(t, 'SELECT') AS may
  FROM unnest('{realtime.events,realtime.event_log_state,realtime.generations,realtime.incarnation,realtime.purges}'::text[]) t
  UNION ALL
  SELECT 'EXECUTE on ' || f, has_function_privilege(f, 'EXECUTE')
  FROM unnest('{realtime.incarnate(),realtime.check(),"realtime.turn(interval,bigint,pg_snapshot)","realtime.mind_fuse(bigint,bigint,int)",realtime.fuse()}'::text[]) f
  UNION ALL
  SELECT 'a schema realtime that belongs to realtime_owner', pg_get_userbyid(n.nspowner) = 'realtime_owner' FROM pg_namespace n WHERE n.nspname = 'realtime'
) p
WHERE NOT p.may

-- name: is_reader
-- Whether this role is a member of the readers; null where that role is not there.
SELECT pg_has_role(to_regrole('realtime_reader'), 'USAGE')

-- name: backend
SELECT pg_backend_pid()

-- name: listen_check
LISTEN realtime_check

-- name: unlisten_check
UNLISTEN realtime_check

-- name: notify_check
SELECT pg_notify('realtime_check', %(payload)s)
