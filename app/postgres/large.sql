-- name: large_tables
-- The generations that a transaction has events of.
SELECT f.floor::text, e.gen
FROM realtime.event_log_state f
LEFT JOIN LATERAL (SELECT DISTINCT e.gen FROM realtime.events e WHERE e.xid = %(xid)s::xid8) e ON true

-- name: pages
-- The pieces of a transaction that is too large to hold, in the order of app.core.order as far as that needs no row:
-- marks, then what each query did to a table (deletes, updates, inserts), then the order of the event log. Command 0 says
-- that recovery wrote the row, which knows no commands: what such a row's query was is not known.
-- A row whose key changed counts twice: as DELETE before the other rows of its statement (phase 0), and as INSERT after
-- them (phase 2).
-- For each piece: between which places (ctid) its rows lie, which never move, how many they are, the runs of ids of which
-- it consists, in order, and where in the first id it begins and in the last one ends.
-- The transaction is sorted here, once, so that each piece is then found without the others.
-- `contradicts`: the tables of which, in this order, an `old` is not what the change of the same key before it left. That is
-- asked where several statements (or cascades in one) could be of one row, and by hashes. NOT MATERIALIZED: elsewhere it then costs nothing.
SELECT f.floor::text, p.*
FROM realtime.event_log_state f
LEFT JOIN LATERAL (
  WITH several AS (
    SELECT min(e.id) < max(e.id) AND bool_or(e.op <> 'I') AND bool_or(e.op <> 'D') OR bool_or(e.op = 'U' AND e.ord IS NOT NULL) AS yes FROM realtime.events e WHERE e.xid = %(xid)s::xid8
  ), e AS (
    SELECT e.ctid AS tid, e.id, e.n, e.gen, e.op, e.depth, e.ord, e.cmin::text::bigint AS command,
           coalesce(pg_column_size(e.new) * CASE WHEN pg_column_compression(e.new) IS NULL THEN 1 ELSE 4 END, 0)
             + coalesce(pg_column_size(e.old) * CASE WHEN pg_column_compression(e.old) IS NULL THEN 1 ELSE 4 END, 0) AS size,
           e.op = 'U' AND e.new_vals[1:cardinality(g.key)] <> e.old_vals[1:cardinality(g.key)] AS moves,
           g.relid, c.*
    FROM realtime.events e LEFT JOIN realtime.generations g ON g.gen = e.gen
    LEFT JOIN LATERAL (SELECT hash_array_extended(e.new_vals[1:cardinality(g.key)], 0) AS new_key, hash_array_extended(e.old_vals[1:cardinality(g.key)], 0) AS old_key,
        hashtextextended(coalesce(e.new::text, e.new_vals::text), 0) AS new, hashtextextended(coalesce(e.old::text, e.old_vals::text), 0) AS old
      ) c ON (SELECT yes FROM several) AND cardinality(g.key) > 0 AND e.op IN ('I', 'U', 'D')
    WHERE e.xid = %(xid)s::xid8
    OFFSET 0 -- so that rows are sorted without their values
  ), began AS (
    SELECT e.*, max(e.ord) OVER w AS mark_before,
           e.id <> lag(e.id) OVER w AND (e.depth <> lag(e.depth) OVER w OR e.command - lag(e.command) OVER w - (e.n > 0)::int NOT IN (0, 1)
             OR least(e.command, lag(e.command) OVER w) = 0) AS begins
    FROM e WINDOW w AS (ORDER BY e.id, e.n)
  ), queries AS (
    SELECT b.*, count(*) FILTER (WHERE b.begins) OVER (ORDER BY b.id, b.n) AS query FROM began b
  ), marked AS (
    SELECT q.*, min(q.ord) OVER (PARTITION BY q.query) AS mark FROM queries q
  ), grouped AS (
    SELECT m.tid, m.id, m.n, m.size, m.moves, coalesce(m.mark, m.mark_before, 0) AS mark, m.mark IS NULL AS unmarked,
           CASE WHEN m.mark IS NULL THEN 0 ELSE m.depth END AS level, CASE WHEN m.mark IS NULL THEN m.query ELSE 0 END AS query,
           min(m.id) OVER (PARTITION BY m.mark, m.depth, CASE WHEN m.mark IS NULL THEN m.query END, m.gen) AS first,
           strpos('DUI', m.op::text) AS turn, m.op, m.relid, m.new_key, m.old_key, m.new, m.old
    FROM marked m
  ), places AS NOT MATERIALIZED (
    SELECT g.tid, g.id, p.phase, g.n, g.size, row_number() OVER o AS at, row_number() OVER (ORDER BY g.id, p.phase, g.n) AS logged,
           sum(g.size) OVER o - g.size AS before,
           g.op, g.relid, CASE WHEN p.phase = 2 THEN g.new_key ELSE coalesce(g.old_key, g.new_key) END AS key,
           CASE WHEN p.phase > 0 THEN g.new END AS new, CASE WHEN p.phase < 2 THEN g.old END AS old
    FROM grouped g
    JOIN LATERAL (VALUES (0), (1), (2)) p(phase) ON CASE WHEN g.moves THEN p.phase <> 1 ELSE p.phase = 1 END
    WINDOW o AS (ORDER BY g.mark, g.unmarked, g.level, g.query, g.first, g.turn, g.id, p.phase, g.n)
  ), emptied AS (
    SELECT p.*, count(*) FILTER (WHERE p.op = 'T') OVER (PARTITION BY p.relid ORDER BY p.at) AS times FROM places p WHERE (SELECT yes FROM several)
  ), told AS (
    SELECT e.relid, e.old IS DISTINCT FROM lag(e.new, 1, CASE WHEN e.times = 0 THEN e.old END) OVER (PARTITION BY e.relid, e.times, e.key ORDER BY e.at) AS wrong
    FROM emptied e WHERE e.key IS NOT NULL
  ), cut AS (
    SELECT p.at, p.id, p.phase, p.n, p.tid, p.logged, (p.at - 1) / %(rows)s + div(p.before, %(bytes)s) AS page FROM places p
  ), breaks AS (
    SELECT c.*, c.logged IS DISTINCT FROM lag(c.logged) OVER (PARTITION BY c.page ORDER BY c.at) + 1 AS breaks FROM cut c
  ), runs AS (
    SELECT b.*, count(*) FILTER (WHERE b.breaks) OVER (PARTITION BY b.page ORDER BY b.at) AS run FROM breaks b
  ), pieces AS (
    SELECT r.page, r.run, min(r.tid) AS low, max(r.tid) AS high, count(*) AS rows, min(r.id) AS first, max(r.id) AS last,
           min(ARRAY[r.at, r.phase, r.n]) AS begins, max(ARRAY[r.at, r.phase, r.n]) AS ends
    FROM runs r GROUP BY r.page, r.run
  )
  SELECT min(p.low)::text AS low, max(p.high)::text AS high, sum(p.rows)::bigint AS rows,
         '{' || string_agg(format('[%%s,%%s]', p.first, p.last), ',' ORDER BY p.run) || '}' AS ids,
         min(ARRAY[p.run, p.first, p.begins[2], p.begins[3]]) AS begins, max(ARRAY[p.run, p.last, p.ends[2], p.ends[3]]) AS ends,
         (SELECT array_agg(DISTINCT t.relid::bigint) FROM told t WHERE t.wrong) AS contradicts
  FROM pieces p
  GROUP BY p.page
  ORDER BY p.page
) p ON true

-- name: page
-- A piece of a transaction that is too large to hold, in the order of the event log.
SELECT f.floor::text, e.*
FROM realtime.event_log_state f
LEFT JOIN LATERAL (
  SELECT p.phase, e.id, e.n, e.xid, e.gen, e.op, e.depth, e.ord, e.cmin, e.at, e.new_vals, e.old_vals, e.new, e.old
  FROM realtime.events e
  LEFT JOIN realtime.generations g ON g.gen = e.gen
  JOIN LATERAL (VALUES (0), (1), (2)) p(phase)
    ON CASE WHEN e.op = 'U' AND e.new_vals[1:cardinality(g.key)] <> e.old_vals[1:cardinality(g.key)]
            THEN p.phase <> 1 ELSE p.phase = 1 END
  WHERE e.xid IS NOT DISTINCT FROM %(xid)s::xid8 AND e.ctid >= %(low)s::tid AND e.ctid <= %(high)s::tid
    AND e.id <@ %(ids)s::int8multirange
    AND NOT (e.id = %(first)s AND (p.phase, e.n) < (%(first_phase)s, %(first_n)s))
    AND NOT (e.id = %(last)s AND (p.phase, e.n) > (%(last_phase)s, %(last_n)s))
  ORDER BY e.id, p.phase, e.n
) e ON true
