-- All SQL of the server, by name. Invariants: every object is written with its schema (sessions run with search_path
-- pg_catalog); a read of the log is ONE statement in READ COMMITTED that also returns the log's floor, so that rows,
-- snapshot and floor are of one moment even while the ring of the log turns.

-- name: session
-- Whatever the database or the role has as defaults. Names that this server's version lacks are left out.
SELECT pg_catalog.set_config(s.name, s.value, false)
FROM (VALUES
  ('search_path', 'pg_catalog'), ('default_transaction_isolation', 'read committed'),
  ('default_transaction_read_only', 'off'), ('default_transaction_deferrable', 'off'),
  ('statement_timeout', '60s'), ('lock_timeout', '10s'), ('transaction_timeout', '0'),
  ('idle_session_timeout', '0'), ('idle_in_transaction_session_timeout', '60s'),
  ('TimeZone', 'UTC'), ('DateStyle', 'ISO, YMD'), ('IntervalStyle', 'iso_8601'), ('bytea_output', 'hex'),
  ('extra_float_digits', '1'), ('standard_conforming_strings', 'on'), ('jit', 'off')
) s(name, value)
WHERE pg_catalog.current_setting(s.name, true) IS NOT NULL

-- name: notice_dead_peer
SELECT set_config('client_connection_check_interval', '2s', false)

-- name: plan_for_log
-- Fresh partitions have no statistics: a read of the log always goes by its index, row by row, and stops early.
SELECT set_config(s.name, s.value, false)
FROM (VALUES
  ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'),
  ('plan_cache_mode', 'force_generic_plan'), ('max_parallel_workers_per_gather', '0')
) s(name, value)

-- name: incarnate
SELECT i.n, i.uuid::text FROM realtime.incarnate() i

-- name: incarnations
SELECT i.n, i.uuid::text, i.sysid, i.db::bigint, i.marker::bigint, i.tli, (i.recovery_end - '0/0')::bigint
FROM realtime.incarnation i ORDER BY i.n

-- name: timelines
SELECT t.tli, (t.ended - '0/0')::bigint FROM realtime.timelines() t

-- name: log
SELECT f.tableoid::bigint FROM realtime.log_state f

-- name: floor
SELECT f.floor::text FROM realtime.log_state f

-- name: head
SELECT s.s::text, f.floor::text, (SELECT max(e.xid) FROM realtime.events e), s.lsn
FROM (SELECT pg_current_snapshot() AS s, (pg_current_wal_insert_lsn() - '0/0')::bigint AS lsn) s
CROSS JOIN realtime.log_state f

-- name: difference
-- The transaction ids that may have become visible since a snapshot are the gaps between those in progress now, from
-- its xmax on, and those in progress then that are visible now. An open transaction's rows are never touched.
-- What is the same for all rows is in rows of their own: in columns, empty or not, it cost a tenth of the reading. First H,
-- whose values are the snapshot, the floor and how far the WAL was written, and which is missing where these are other
-- tables than those that the connection began with. Last F, which has for an id how far the WAL is durable by then.
-- An event beyond the bytes asked for comes without what it holds, as X.
WITH s AS MATERIALIZED (
  SELECT pg_current_snapshot() AS s, (pg_current_wal_insert_lsn() - '0/0')::bigint AS written
)
SELECT 0::bigint AS id, 0 AS n, '0'::xid8 AS xid, 0 AS gen, 'H'::"char" AS op, 0::smallint AS depth, NULL::bigint AS ord,
       'epoch'::timestamptz AS at, ARRAY[s.s::text, f.floor::text, s.written::text] AS new_vals,
       NULL::text[] AS old_vals, NULL::json AS new, NULL::json AS old
FROM s CROSS JOIN realtime.log_state f WHERE f.tableoid = %(log)s::bigint::oid
UNION ALL
SELECT e.id, e.n, e.xid, e.gen, CASE WHEN e.size <= %(bytes)s THEN e.op ELSE 'X' END, e.depth, e.ord, e.at,
       CASE WHEN e.size <= %(bytes)s THEN e.new_vals END, CASE WHEN e.size <= %(bytes)s THEN e.old_vals END,
       CASE WHEN e.size <= %(bytes)s THEN e.new END, CASE WHEN e.size <= %(bytes)s THEN e.old END
FROM (
  SELECT e.*, sum(coalesce(pg_column_size(e.new), 0) + coalesce(pg_column_size(e.old), 0))
                OVER (ROWS UNBOUNDED PRECEDING) AS size
  FROM (
    SELECT e.*
    FROM (SELECT lag(b.x, 1, %(last)s::xid8) OVER (ORDER BY b.x) AS lo, b.x AS hi
          FROM (SELECT pg_snapshot_xip(s.s) AS x FROM s UNION ALL SELECT pg_snapshot_xmax(s.s) FROM s) b
          WHERE b.x > %(last)s::xid8) g,
         LATERAL (SELECT * FROM realtime.events e WHERE e.xid > g.lo AND e.xid < g.hi) e
    UNION ALL
    SELECT e.*
    FROM s, unnest(%(open)s::xid8[]) p(x), LATERAL (SELECT * FROM realtime.events e WHERE e.xid = p.x) e
    WHERE pg_visible_in_snapshot(p.x, s.s)
    LIMIT %(rows)s
  ) e
) e
UNION ALL
SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint, 0, '0'::xid8, 0, 'F', 0::smallint, NULL, 'epoch', NULL, NULL, NULL, NULL

-- name: flushed
SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint

-- name: flush
-- From PostgreSQL 17 on: a message of no transaction, flushed before the call returns.
SELECT pg_logical_emit_message(false, 'realtime', '', true)

-- name: flush_by_commit
-- Before 17: a message of a transaction, whose commit is flushed.
SELECT pg_logical_emit_message(true, 'realtime', '')
FROM (SELECT set_config('synchronous_commit', 'local', true)) s

-- name: extent
-- What is in ranges of transaction ids that have all ended: the highest with an event, and the generations that G and R
-- events name.
SELECT f.floor::text, e.highest, e.gens
FROM realtime.log_state f
CROSS JOIN LATERAL (
  SELECT max(e.xid) AS highest, array_agg(DISTINCT e.gen) FILTER (WHERE e.op IN ('G', 'R')) AS gens
  FROM unnest(%(lows)s::xid8[], %(highs)s::xid8[]) g(lo, hi),
       LATERAL (SELECT e.xid, e.gen, e.op FROM realtime.events e WHERE e.xid >= g.lo AND e.xid < g.hi) e
) e

-- name: transactions
-- The next transactions of a replay in order of their last event (chosen), and those that come after them although
-- their id is lower (not chosen): a position between must leave the latter out.
SELECT f.floor::text, t.*
FROM realtime.log_state f
LEFT JOIN LATERAL (
  WITH t AS MATERIALIZED (
    SELECT e.xid, max(e.id) AS last, count(*) AS changes, bool_or(e.ord IS NOT NULL) AS marked,
           sum(coalesce(pg_column_size(e.new), 0) + coalesce(pg_column_size(e.old), 0)) AS bytes
    FROM unnest(%(lows)s::xid8[], %(highs)s::xid8[]) g(lo, hi),
         LATERAL (SELECT * FROM realtime.events e WHERE e.xid >= g.lo AND e.xid < g.hi) e
    GROUP BY e.xid
  ), page AS MATERIALIZED (SELECT * FROM t ORDER BY t.last, t.xid LIMIT %(limit)s)
  SELECT true AS chosen, p.xid, p.last, p.changes::bigint, p.bytes::bigint, p.marked FROM page p
  UNION ALL
  SELECT false, t.xid, t.last, 0, 0, false FROM t
  WHERE t.xid < greatest((SELECT max(p.xid) FROM page p), %(xmax)s::xid8)
    AND (t.last, t.xid) > (SELECT p.last, p.xid FROM page p ORDER BY p.last DESC, p.xid DESC LIMIT 1)
) t ON true

-- name: portion
SELECT f.floor::text, e.*
FROM realtime.log_state f
LEFT JOIN LATERAL (
  SELECT e.id, e.n, e.xid, e.gen, e.op, e.depth, e.ord, e.at, e.new_vals, e.old_vals, e.new, e.old
  FROM unnest(%(xids)s::xid8[]) p(x), LATERAL (SELECT * FROM realtime.events e WHERE e.xid = p.x) e
) e ON true

-- name: pages
-- Where the pieces of a transaction lie that is too large to hold, in order: their rows, and between which places.
SELECT f.floor::text, p.*
FROM realtime.log_state f
LEFT JOIN LATERAL (
  SELECT min(e.ctid)::text AS low, max(e.ctid)::text AS high, count(*) AS rows
  FROM (
    SELECT e.ctid, (row_number() OVER (ORDER BY e.mark, e.unmarked, e.level, e.id, p.phase, e.n) - 1) / %(rows)s AS page
    FROM (
      SELECT e.ctid, e.id, e.n, e.gen, e.op, e.new_vals, e.old_vals,
             e.ord IS NULL AS unmarked, CASE WHEN e.ord IS NULL THEN 0 ELSE e.depth END AS level,
             CASE WHEN NOT %(marked)s THEN 0
                  ELSE coalesce(e.ord, max(e.ord) OVER (ORDER BY e.id, e.n), 0) END AS mark
      FROM realtime.events e
      WHERE e.xid = %(xid)s::xid8
    ) e
    JOIN realtime.generations g ON g.gen = e.gen
    JOIN LATERAL (VALUES (0), (1), (2)) p(phase)
      ON CASE WHEN e.op = 'U' AND e.new_vals[1:cardinality(g.key)] <> e.old_vals[1:cardinality(g.key)]
              THEN p.phase <> 1 ELSE p.phase = 1 END
  ) e
  GROUP BY e.page
  ORDER BY e.page
) p ON true

-- name: page
-- A piece of a transaction that is too large to hold, after a key (mark, unmarked, level, id, phase, n), found by where
-- its rows lie (they never move). Rows whose key changed come twice: as DELETE before (phase 0) and as INSERT after
-- (phase 2) the other rows of their statement. What is without a mark follows the marked events that were logged before.
SELECT f.floor::text, e.*
FROM realtime.log_state f
LEFT JOIN LATERAL (
  SELECT e.mark, e.unmarked, e.level, e.phase, e.id, e.n, e.xid, e.gen, e.op, e.depth, e.ord, e.at,
         e.new_vals, e.old_vals, e.new, e.old
  FROM (
    SELECT e.*, sum(coalesce(pg_column_size(e.new), 0) + coalesce(pg_column_size(e.old), 0))
             OVER (ORDER BY e.mark, e.unmarked, e.level, e.id, e.phase, e.n
                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
    FROM (
      SELECT e.*, p.phase
      FROM (
        SELECT e.*, e.ord IS NULL AS unmarked, CASE WHEN e.ord IS NULL THEN 0 ELSE e.depth END AS level,
               CASE WHEN NOT %(marked)s THEN 0
                    ELSE coalesce(e.ord, max(e.ord) OVER (ORDER BY e.id, e.n), 0) END AS mark
        FROM realtime.events e
        WHERE e.xid IS NOT DISTINCT FROM %(xid)s::xid8 AND e.ctid >= %(low)s::tid AND e.ctid <= %(high)s::tid
      ) e
      JOIN realtime.generations g ON g.gen = e.gen
      JOIN LATERAL (VALUES (0), (1), (2)) p(phase)
        ON CASE WHEN e.op = 'U' AND e.new_vals[1:cardinality(g.key)] <> e.old_vals[1:cardinality(g.key)]
                THEN p.phase <> 1 ELSE p.phase = 1 END
      WHERE (e.mark, e.unmarked, e.level, e.id, p.phase, e.n)
          > (%(mark)s::bigint, %(unmarked)s::bool, %(level)s::int, %(id)s::bigint, %(phase)s::int, %(n)s::int)
      ORDER BY e.mark, e.unmarked, e.level, e.id, p.phase, e.n
      LIMIT %(rows)s
    ) e
  ) e
  WHERE coalesce(e.before, 0) < %(bytes)s
  ORDER BY e.mark, e.unmarked, e.level, e.id, e.phase, e.n
) e ON true

-- name: generations
SELECT g.gen, g.relid::bigint, g.schema, g.name, g.key, g.routes, g.vals, g.types,
       array_to_string(g.json_types, ''), g.xid, g.ended
FROM realtime.generations g WHERE g.gen = ANY(%(gens)s::int[]) OR g.gen > %(above)s

-- name: current
SELECT g.gen, g.relid::bigint, g.schema, g.name, g.key, g.routes, g.vals, g.types,
       array_to_string(g.json_types, ''), g.xid, g.ended
FROM realtime.generations g WHERE g.schema = %(schema)s AND g.name = %(name)s ORDER BY g.gen DESC LIMIT 1

-- name: recovering
SELECT pg_is_in_recovery(), current_setting('server_version')

-- name: schema
SELECT to_regclass('realtime.meta') IS NOT NULL

-- name: version
SELECT m.version, m.compatible_from FROM realtime.meta m

-- name: privileges
-- What this role may not do although it must.
SELECT p.what
FROM (
  SELECT 'SELECT on ' || t AS what, has_table_privilege(t, 'SELECT') AS may
  FROM unnest('{realtime.events,realtime.log_state,realtime.generations,realtime.incarnation,realtime.purges}'::text[]) t
  UNION ALL
  SELECT 'EXECUTE on ' || f, has_function_privilege(f, 'EXECUTE')
  FROM unnest('{realtime.incarnate(),realtime.check(),"realtime.turn(interval,bigint,pg_snapshot)"}'::text[]) f
) p
WHERE NOT p.may

-- name: listen
LISTEN realtime

-- name: listen_check
LISTEN realtime_check

-- name: unlisten_check
UNLISTEN realtime_check

-- name: notify_check
SELECT pg_notify('realtime_check', %(payload)s)

-- name: lead
SELECT pg_try_advisory_lock(1919247220, 2)

-- name: close_gate
SELECT pg_advisory_lock(1919247220, 1)

-- name: open_gate
SELECT pg_advisory_unlock(1919247220, 1)

-- name: short_wait
SELECT set_config('lock_timeout', '50ms', false)

-- name: gate
-- Whether K is held, and whether somebody waits to notify: commits with notifications go one at a time, of all databases.
SELECT coalesce(bool_or(l.granted AND l.pid = pg_backend_pid() AND l.locktype = 'advisory' AND l.mode = 'ExclusiveLock'
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND l.classid = 1919247220 AND l.objid = 1 AND l.objsubid = 2), false),
       coalesce(bool_or(NOT l.granted AND l.locktype = 'object' AND l.database = 0
         AND l.classid = 'pg_database'::regclass AND l.objid = 0), false)
FROM pg_locks l

-- name: end_leader
-- Who leads and the gate, but where the leader has kept house in the seconds given: its beats are late then, behind other
-- notifications or on a line that is down, and another leader's would be no earlier.
WITH l AS MATERIALIZED (
  SELECT DISTINCT pid, objid FROM pg_locks
  WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock' AND pid <> pg_backend_pid()
    AND classid = 1919247220 AND objid IN (1, 2) AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT pid
FROM (SELECT DISTINCT pid FROM l) l
WHERE NOT EXISTS (
    SELECT FROM l JOIN pg_stat_activity a USING (pid)
    WHERE l.objid = 2 AND a.state_change > clock_timestamp() - make_interval(secs => %(kept)s))
  AND pg_terminate_backend(pid)

-- name: two_phase
SELECT current_setting('max_prepared_transactions')::int

-- name: check
SELECT c.schema, c.name, c.problem, c.remedy FROM realtime.check() c

-- name: turn
SELECT realtime.turn(make_interval(secs => %(keep)s), %(bytes)s, %(published)s::pg_snapshot)

-- name: purging
SELECT EXISTS (SELECT FROM realtime.purges p WHERE p.done IS NULL)

-- name: blockers
-- Who holds a lock on a partition that could be emptied, the oldest first, and what ends that. Readers and writers of a
-- moment are not meant; of other roles' sessions only members of pg_read_all_stats see more than the pid.
SELECT concat(b.who, ' holds a lock on the log',
         ', in a transaction that is open for ' || round(extract(epoch FROM clock_timestamp() - b.since)) || ' s',
         ' (' || b.state || coalesce(', waits for ' || b.waits, '') || ')'),
       b.remedy
FROM (
  SELECT concat('process ', a.pid, ' (' || nullif(a.application_name, '') || ')') AS who, a.xact_start AS since, a.state,
         a.wait_event_type || ' ' || a.wait_event AS waits, format('SELECT pg_terminate_backend(%s)', a.pid) AS remedy
  FROM pg_stat_activity a WHERE a.pid IN (SELECT l.pid FROM pg_locks l
    WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.relation IN (SELECT format('realtime.events_%s', i)::regclass FROM generate_series(0, 3) i, realtime.log_state s WHERE i <> s.slot))
    AND (a.xact_start IS NULL OR a.xact_start < clock_timestamp() - interval '1 s')
  UNION ALL
  SELECT format('the prepared transaction %L', p.gid), p.prepared, NULL, NULL, format('COMMIT PREPARED %1$L (or ROLLBACK PREPARED %1$L)', p.gid)
  FROM pg_prepared_xacts p WHERE p.database = current_database() AND p.transaction IN (
    SELECT x.transactionid FROM pg_locks x JOIN pg_locks l USING (virtualtransaction)
    WHERE x.locktype = 'transactionid' AND x.pid IS NULL AND l.locktype = 'relation' AND l.pid IS NULL
      AND l.relation IN (SELECT format('realtime.events_%s', i)::regclass FROM generate_series(0, 3) i, realtime.log_state s WHERE i <> s.slot))
) b
ORDER BY b.since NULLS LAST

-- name: log_state
-- The log's bytes, and the age in seconds of an event of its oldest partition (0 where it is empty).
SELECT (SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
        WHERE c.oid = ANY ('{realtime.events_0,realtime.events_1,realtime.events_2,realtime.events_3}'::regclass[]))::bigint,
       coalesce(extract(epoch FROM clock_timestamp() - (SELECT min(o.at) FROM (
         (SELECT at FROM realtime.events_0 LIMIT 1) UNION ALL (SELECT at FROM realtime.events_1 LIMIT 1) UNION ALL
         (SELECT at FROM realtime.events_2 LIMIT 1) UNION ALL (SELECT at FROM realtime.events_3 LIMIT 1)) o)), 0)::float8,
       pg_notification_queue_usage()

-- name: may_snapshot
-- Whether a table's rows can be read for a channel: the right to, row security, an index that begins with a column of the
-- route; and its virtual generated columns, which are on the air nowhere.
SELECT has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid), EXISTS (
         SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
         WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND a.attname = ANY (%(route)s)),
       (SELECT array_agg(a.attname::text) FROM pg_attribute a
         WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped)
FROM pg_class c WHERE c.oid = %(relid)s::bigint::oid
