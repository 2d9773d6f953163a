-- name: difference
-- Two kinds of transaction ids may have become visible since a snapshot. From its xmax on they are those in the gaps
-- between the ids that are in progress now. Below it they are those that were in progress then and are visible now.
-- The rows of an open transaction are never touched.
-- app.postgres.difference says why there is a header (H) and a footer (F), and unpacks them.
-- The header's values are the snapshot, the floor, how far the WAL was written, and the opening of the fuse that is not
-- healed, which is read when the snapshot was taken. There is none where the event log's
-- table of state is another than the one that the connection began with.
-- The footer's id is how far the WAL is durable by then.
-- An event beyond the bytes that were asked for comes without its values, as X. Bytes are those that are stored, and four
-- for each of a compressed value, which is about what it is when it is read.
WITH s AS MATERIALIZED (
  SELECT pg_current_snapshot() AS s, (pg_current_wal_insert_lsn() - '0/0')::bigint AS written
)
SELECT 0::bigint AS id, 0 AS n, '0'::xid8 AS xid, 0 AS gen, 'H'::"char" AS op, 0::smallint AS depth, NULL::bigint AS ord,
       '0'::cid AS command, 'epoch'::timestamptz AS at, ARRAY[s.s::text, f.floor::text, s.written::text,
         CASE WHEN realtime.fuse() <> f.healed THEN realtime.fuse()::text END] AS new_vals,
       NULL::text[] AS old_vals, NULL::json AS new, NULL::json AS old
FROM s CROSS JOIN realtime.event_log_state f WHERE f.tableoid = %(state_table)s::bigint::oid
UNION ALL
SELECT e.id, e.n, e.xid, e.gen, CASE WHEN e.size <= %(bytes)s THEN e.op ELSE 'X' END, e.depth, e.ord,
       e.command, e.at, CASE WHEN e.size <= %(bytes)s THEN e.new_vals END, CASE WHEN e.size <= %(bytes)s THEN e.old_vals END,
       CASE WHEN e.size <= %(bytes)s THEN e.new END, CASE WHEN e.size <= %(bytes)s THEN e.old END
FROM (
  SELECT e.*, sum(coalesce(pg_column_size(e.new) * CASE WHEN pg_column_compression(e.new) IS NULL THEN 1 ELSE 4 END, 0)
                  + coalesce(pg_column_size(e.old) * CASE WHEN pg_column_compression(e.old) IS NULL THEN 1 ELSE 4 END, 0))
                OVER (ROWS UNBOUNDED PRECEDING) AS size
  FROM (
    SELECT e.*
    FROM (SELECT lag(b.x, 1, %(last)s::xid8) OVER (ORDER BY b.x) AS lo, b.x AS hi
          FROM (SELECT pg_snapshot_xip(s.s) AS x FROM s UNION ALL SELECT pg_snapshot_xmax(s.s) FROM s) b
          WHERE b.x > %(last)s::xid8) g,
         LATERAL (SELECT e.*, e.cmin AS command FROM realtime.events e WHERE e.xid > g.lo AND e.xid < g.hi) e
    UNION ALL
    SELECT e.*
    FROM s, unnest(%(open)s::xid8[]) p(x), LATERAL (SELECT e.*, e.cmin AS command FROM realtime.events e WHERE e.xid = p.x) e
    WHERE pg_visible_in_snapshot(p.x, s.s)
    LIMIT %(rows)s
  ) e
) e
UNION ALL
SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint, 0, '0'::xid8, 0, 'F', 0::smallint, NULL, '0', 'epoch', NULL, NULL, NULL, NULL
