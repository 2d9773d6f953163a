-- name: turn
-- What it did: 'emptied' the oldest partition, 'switched' to the next one, was 'blocked', or had nothing to do.
SELECT realtime.turn(make_interval(secs => %(keep)s), %(bytes)s, %(published)s::pg_snapshot)

-- name: fuse_at_risk
-- Whether the fuse is open, or may have to be opened, and how far the WAL is written. This writes nothing.
SELECT realtime.fuse() <> s.healed OR (SELECT sum(b) >= %(fuse)s FROM unnest(realtime.event_log_bytes()) b) OR NOT realtime.has_room(%(kb)s),
       (pg_current_wal_insert_lsn() - '0/0')::bigint
FROM realtime.event_log_state s

-- name: mind_fuse
-- One step towards a whole fuse: null where it is whole.
SELECT realtime.mind_fuse(%(fuse)s, %(ballast)s, %(kb)s)

-- name: purging
SELECT EXISTS (SELECT FROM realtime.purges p WHERE p.done IS NULL)

-- name: blockers
-- Which sessions and prepared transactions hold a lock on a partition that could be emptied, or may have left changes out
-- before the fuse was closed, the oldest first, and what ends that. Sessions that read or write for less than a second are left out.
-- A role that is no member of pg_read_all_stats sees no more than the pid of other roles' sessions.
WITH held AS MATERIALIZED (
  SELECT l.pid, l.virtualtransaction FROM pg_locks l CROSS JOIN realtime.event_log_state s
  WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (l.relation IN (SELECT format('realtime.events_%s', i)::regclass FROM generate_series(0, 3) i WHERE i <> realtime.slot())
      OR l.relation = 'realtime.current_slot'::regclass AND l.virtualtransaction = ANY (s.waits))
)
SELECT concat(b.who, ' holds a lock on the event log',
         ', in a transaction that is open for ' || round(extract(epoch FROM clock_timestamp() - b.since)) || ' s',
         ' (' || b.state || coalesce(', waits for ' || b.waits, '') || ')'),
       b.remedy
FROM (
  SELECT concat('process ', a.pid, ' (' || nullif(a.application_name, '') || ')') AS who, a.xact_start AS since, a.state,
         a.wait_event_type || ' ' || a.wait_event AS waits, format('SELECT pg_terminate_backend(%s)', a.pid) AS remedy
  FROM pg_stat_activity a WHERE a.pid IN (SELECT h.pid FROM held h)
    AND (a.xact_start IS NULL OR a.xact_start < clock_timestamp() - interval '1 s')
  UNION ALL
  SELECT format('the prepared transaction %L', p.gid), p.prepared, NULL, NULL, format('COMMIT PREPARED %1$L (or ROLLBACK PREPARED %1$L)', p.gid)
  FROM pg_prepared_xacts p WHERE p.database = current_database() AND p.transaction IN (
    SELECT x.transactionid FROM pg_locks x JOIN held h USING (virtualtransaction)
    WHERE x.locktype = 'transactionid' AND x.pid IS NULL AND h.pid IS NULL)
) b
ORDER BY b.since NULLS LAST

-- name: event_log_size
-- The event log's bytes, the age in seconds of its oldest event, about (0 where it is empty), and how full the queue of
-- notifications is (0 to 1).
SELECT (SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
        WHERE c.oid = ANY ('{realtime.events_0,realtime.events_1,realtime.events_2,realtime.events_3}'::regclass[]))::bigint,
       coalesce(extract(epoch FROM clock_timestamp() - (SELECT min(o.at) FROM (
         (SELECT at FROM realtime.events_0 LIMIT 1) UNION ALL (SELECT at FROM realtime.events_1 LIMIT 1) UNION ALL
         (SELECT at FROM realtime.events_2 LIMIT 1) UNION ALL (SELECT at FROM realtime.events_3 LIMIT 1)) o)), 0)::float8,
       pg_notification_queue_usage()
