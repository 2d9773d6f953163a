-- name: floor
SELECT f.floor::text FROM realtime.event_log_state f

-- name: head
SELECT s.s::text, f.floor::text, (SELECT max(e.xid) FROM realtime.events e), s.lsn
FROM (SELECT pg_current_snapshot() AS s, (pg_current_wal_insert_lsn() - '0/0')::bigint AS lsn) s
CROSS JOIN realtime.event_log_state f

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
       '0'::cid AS command, 'epoch'::timestamptz AS at, ARRAY[s.s::text, f.floor::text, s.written::text] AS new_vals,
       NULL::text[] AS old_vals, NULL::json AS new, NULL::json AS old
FROM s CROSS JOIN realtime.event_log_state f WHERE f.tableoid = %(log)s::bigint::oid
UNION ALL
SELECT e.id, e.n, e.xid, e.gen, CASE WHEN e.size <= %(bytes)s THEN e.op ELSE 'X' END, e.depth, e.ord,
       e.command, e.at, CASE WHEN e.size <= %(bytes)s THEN e.new_vals END, CASE WHEN e.size <= %(bytes)s THEN e.old_vals END,
       CASE WHEN e.size <= %(bytes)s THEN e.new END, CASE WHEN e.size <= %(bytes)s THEN e.old END
FROM (
  SELECT e.*, sum(coalesce(pg_column_size(e.new), 0) + coalesce(pg_column_size(e.old), 0))
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

-- name: extent
-- What is in ranges of transaction ids that have all ended: the highest with an event, and the generations that G and R
-- events name.
SELECT f.floor::text, e.highest, e.gens
FROM realtime.event_log_state f
CROSS JOIN LATERAL (
  SELECT max(e.xid) AS highest, array_agg(DISTINCT e.gen) FILTER (WHERE e.op IN ('G', 'R')) AS gens
  FROM unnest(%(lows)s::xid8[], %(highs)s::xid8[]) g(lo, hi),
       LATERAL (SELECT e.xid, e.gen, e.op FROM realtime.events e WHERE e.xid >= g.lo AND e.xid < g.hi) e
) e
