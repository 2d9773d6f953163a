-- name: transactions
-- The next transactions of a replay in order of their last event (chosen).
-- After them come those transactions (not chosen) that follow although their id is lower, because the position that a
-- client has in between must leave them out.
SELECT f.floor::text, t.*
FROM realtime.event_log_state f
LEFT JOIN LATERAL (
  WITH t AS MATERIALIZED (
    SELECT e.xid, max(e.id) AS last, count(*) AS changes,
           sum(coalesce(pg_column_size(e.new) * CASE WHEN pg_column_compression(e.new) IS NULL THEN 1 ELSE 4 END, 0)
             + coalesce(pg_column_size(e.old) * CASE WHEN pg_column_compression(e.old) IS NULL THEN 1 ELSE 4 END, 0)) AS bytes
    FROM unnest(%(lows)s::xid8[], %(highs)s::xid8[]) g(lo, hi),
         LATERAL (SELECT * FROM realtime.events e WHERE e.xid >= g.lo AND e.xid < g.hi) e
    GROUP BY e.xid
  ), page AS MATERIALIZED (SELECT * FROM t ORDER BY t.last, t.xid LIMIT %(limit)s)
  SELECT true AS chosen, p.xid, p.last, p.changes::bigint, p.bytes::bigint FROM page p
  UNION ALL
  SELECT false, t.xid, t.last, 0, 0 FROM t
  WHERE t.xid < greatest((SELECT max(p.xid) FROM page p), %(xmax)s::xid8)
    AND (t.last, t.xid) > (SELECT p.last, p.xid FROM page p ORDER BY p.last DESC, p.xid DESC LIMIT 1)
) t ON true

-- name: portion
-- All events of some transactions.
SELECT f.floor::text, e.*
FROM realtime.event_log_state f
LEFT JOIN LATERAL (
  SELECT e.id, e.n, e.xid, e.gen, e.op, e.depth, e.ord, e.command, e.at, e.new_vals, e.old_vals,
         e.new, e.old
  FROM unnest(%(xids)s::xid8[]) p(x), LATERAL (SELECT e.*, e.cmin AS command FROM realtime.events e WHERE e.xid = p.x) e
) e ON true
