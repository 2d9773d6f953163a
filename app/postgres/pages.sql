-- name: transactions
-- The next transactions of a replay in order of their last event (chosen), and those that come after them although
-- their id is lower (not chosen): a position between must leave the latter out.
SELECT f.floor::text, t.*
FROM realtime.event_log_state f
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
FROM realtime.event_log_state f
LEFT JOIN LATERAL (
  SELECT e.id, e.n, e.xid, e.gen, e.op, e.depth, e.ord, e.at, e.new_vals, e.old_vals, e.new, e.old
  FROM unnest(%(xids)s::xid8[]) p(x), LATERAL (SELECT * FROM realtime.events e WHERE e.xid = p.x) e
) e ON true

-- name: pages
-- Where the pieces of a transaction lie that is too large to hold, in order: their rows, and between which places.
SELECT f.floor::text, p.*
FROM realtime.event_log_state f
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
FROM realtime.event_log_state f
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
