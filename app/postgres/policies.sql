-- name: policies
-- All policies, the revocations that have not ended, and whether the database has a function of its own to ask. The
-- snapshot is that of the same statement.
SELECT pg_current_snapshot()::text,
       (SELECT coalesce(json_agg(json_build_array(p.name, p.channel, p.roles, p.claims, p.may) ORDER BY p.name), '[]')
        FROM realtime.policies p)::text,
       (SELECT coalesce(json_agg(json_build_array(r.sub, r.jti, extract(epoch FROM r.issued_before)) ORDER BY r.n), '[]')
        FROM realtime.revocations r WHERE r.until > clock_timestamp())::text,
       to_regprocedure('realtime.may_subscribe(text, jsonb)') IS NOT NULL

-- name: may_subscribe
SELECT realtime.may_subscribe(%(channel)s::text, %(claims)s::jsonb)

-- name: ask_briefly
SELECT set_config('statement_timeout', '1000', true), set_config('lock_timeout', '1000', true)
