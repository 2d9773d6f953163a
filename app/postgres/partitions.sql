-- name: turn
-- What it did: 'emptied' the oldest partition, 'switched' to the next one, was 'blocked', or had nothing to do.
SELECT realtime.turn(make_interval(secs => %(keep)s), %(bytes)s, %(published)s::pg_snapshot)

-- name: purging
SELECT EXISTS (SELECT FROM realtime.purges p WHERE p.done IS NULL)

-- name: blockers
-- Which sessions and prepared transactions hold a lock on a partition that could be emptied, the oldest first, and what
-- ends that. Sessions that read or write for less than a second are left out.
-- A role that is no member of pg_read_all_stats sees no more than the pid of other roles' sessions.
SELECT concat(b.who, ' holds a lock on the event log',
         ', in a transaction that is open for ' || round(extract(epoch FROM clock_timestamp() - b.since)) || ' s',
         ' (' || b.state || coalesce(', waits for ' || b.waits, '') || ')'),
       b.remedy
FROM (
  SELECT concat('process ', a.pid, ' (' || nullif(a.application_name, '') || ')') AS who, a.xact_start AS since, a.state,
         a.wait_event_type || ' ' || a.wait_event AS waits, format('SELECT pg_terminate_backend(%s)', a.pid) AS remedy
  FROM pg_stat_activity a WHERE a.pid IN (SELECT l.pid FROM pg_locks l
    WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.relation IN (SELECT format('realtime.events_%s', i)::regclass FROM generate_series(0, 3) i WHERE i <> realtime.slot()))
    AND (a.xact_start IS NULL OR a.xact_start < clock_timestamp() - interval '1 s')
  UNION ALL
  SELECT format('the prepared transaction %L', p.gid), p.prepared, NULL, NULL, format('COMMIT PREPARED %1$L (or ROLLBACK PREPARED %1$L)', p.gid)
  FROM pg_prepared_xacts p WHERE p.database = current_database() AND p.transaction IN (
    SELECT x.transactionid FROM pg_locks x JOIN pg_locks l USING (virtualtransaction)
    WHERE x.locktype = 'transactionid' AND x.pid IS NULL AND l.locktype = 'relation' AND l.pid IS NULL
      AND l.relation IN (SELECT format('realtime.events_%s', i)::regclass FROM generate_series(0, 3) i WHERE i <> realtime.slot()))
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
