-- realtime.next_floor(), instead of ring_v2.sql's. Run as realtime_owner.

-- The floor that emptying the partition would leave; null where it may not be emptied. Without `oldest`: whatever its age.
-- Never one that `published` does not contain: a transaction that was open when the servers last read, and wrote to
-- another partition since, is not theirs yet, and a floor that sees it would have all their clients begin anew.
CREATE OR REPLACE FUNCTION realtime.next_floor(slot int, oldest interval, published pg_snapshot) RETURNS pg_snapshot LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  last xid8; top xid8; f pg_snapshot := (SELECT s.floor FROM realtime.log_state s);
BEGIN
  EXECUTE format('SELECT max(xid) FROM realtime.events_%s', slot) INTO last;
  IF last IS NULL THEN
    RETURN f;
  ELSIF published IS NULL OR NOT realtime.sees(published, slot) THEN
    RETURN NULL;
  END IF;
  top := greatest(last, (pg_snapshot_xmax(f)::text::bigint - 1)::text::xid8);
  RETURN (SELECT c.normal FROM (SELECT r.seq, r.snapshot, realtime.normal(r.snapshot, top) AS normal
      FROM (SELECT r.seq, r.snapshot FROM realtime.recorded r WHERE r.elapsed <= oldest
        UNION ALL SELECT 0, published WHERE oldest IS NULL) r
      WHERE pg_snapshot_xmax(r.snapshot) >= pg_snapshot_xmax(f)) c
    WHERE realtime.contains(c.normal, f) AND realtime.contains(published, c.normal) AND realtime.sees(c.snapshot, slot)
    ORDER BY c.seq LIMIT 1);
END $f$;
