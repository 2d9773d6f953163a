-- realtime.position(): the token of the caller's own snapshot, for a page that is rendered in a REPEATABLE READ
-- transaction. Run as realtime_owner. The format is app/model/position.py's: <flag><n>-<tag>-<xmax>-<lsn>-<xip>-<check>.
--
-- Invariants: STABLE, so that it sees the calling statement's snapshot; normalised to the highest event xid that is
-- visible; where it can't be exact it says less than is visible (a repetition), never more (a loss). So the
-- caller's own changes are outside: they may yet be rolled back, or go on.
CREATE OR REPLACE FUNCTION realtime.position() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  snap pg_snapshot := pg_current_snapshot();
  own bigint := pg_current_xact_id_if_assigned()::text::bigint;
  top bigint := pg_snapshot_xmax(snap)::text::bigint;
  open bigint[] := ARRAY(SELECT x::text::bigint AS x FROM pg_snapshot_xip(snap) x
    UNION SELECT own WHERE own < top ORDER BY 1);     -- ascending
  d bigint;                                           -- the highest event xid that is visible
  head text; diffs text;
BEGIN
  IF pg_is_in_recovery() THEN
    RAISE EXCEPTION 'realtime.position() needs the primary: this is a standby' USING ERRCODE = 'read_only_sql_transaction';
  END IF;
  BEGIN   -- a subtransaction, whose end by an error gives the locks on the event log back: the caller's may stay open for hours
    -- From the top range of finished xids down, so that an open bulk writer's rows are never scanned.
    SELECT coalesce((SELECT m.x FROM unnest(0 || open, open || top) WITH ORDINALITY r(lo, hi, i)
        CROSS JOIN LATERAL (SELECT max(e.xid)::text::bigint AS x FROM realtime.events e
          WHERE e.xid > r.lo::text::xid8 AND e.xid < r.hi::text::xid8) m
        WHERE m.x IS NOT NULL ORDER BY r.i DESC LIMIT 1), 0) INTO d;
    d := greatest(d, (SELECT pg_snapshot_xmax(s.floor)::text::bigint - 1 FROM realtime.event_log_state s));
    RAISE EXCEPTION 'read' USING ERRCODE = 'RT001';
  EXCEPTION WHEN SQLSTATE 'RT001' THEN
    NULL;
  END;
  -- The lowest open xids that fit; xmax is the first that does not, or d + 1.
  WITH o AS (SELECT x, lead(x, 1, d + 1) OVER (ORDER BY x) AS next FROM unnest(open) x WHERE x <= d),
    f AS (SELECT x, next, sum(length((next - x)::text) + 1) OVER (ORDER BY x) AS size FROM o)
  SELECT coalesce(max(next) FILTER (WHERE size <= 3900), d + 1),
    string_agg((next - x)::text, '.' ORDER BY x DESC) FILTER (WHERE size <= 3900) INTO top, diffs FROM f;
  SELECT concat('a', coalesce(max(i.n), 0), '-', coalesce(left((array_agg(i.uuid ORDER BY i.n DESC))[1]::text, 8), '00000000'), '-', top, '-',
    to_hex((pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint), '-', diffs) INTO head FROM realtime.incarnation i;
  RETURN concat(head, '-', left(encode(sha256(convert_to(head, 'UTF8')), 'hex'), 8));
END $f$;
