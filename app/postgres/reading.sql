-- name: extent
-- What is in ranges of transaction ids that have all ended: the highest transaction with an event, the generations
-- that G and R events name, those of all events, and whether rights change.
SELECT f.floor::text, e.highest, e.gens, e.touched, e.rights
FROM realtime.event_log_state f
CROSS JOIN LATERAL (
  SELECT max(e.xid) AS highest, array_agg(DISTINCT e.gen) FILTER (WHERE e.op IN ('G', 'R')) AS gens,
         array_agg(DISTINCT e.gen) AS touched, bool_or(e.op = 'P') AS rights
  FROM unnest(%(lows)s::xid8[], %(highs)s::xid8[]) g(lo, hi),
       LATERAL (SELECT e.xid, e.gen, e.op FROM realtime.events e WHERE e.xid >= g.lo AND e.xid < g.hi) e
) e
