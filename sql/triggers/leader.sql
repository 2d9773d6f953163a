-- Who leads: the session that holds the leader's advisory lock, whose key is in realtime.leadership. Run as realtime_owner.
--
-- Invariants
-- - At most one session of our roles leads. Our roles are realtime_reader's members.
-- - No role that is none of ours can keep them from it: its lock costs them another key, which it can't read.
-- - A key that a session of ours holds is never given up.

-- Who holds or waits for advisory locks of this product in this database.
CREATE OR REPLACE FUNCTION realtime.lock_holders() RETURNS TABLE (pid int, who name, ours bool, key int, mode text, granted bool, writes bool)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT l.pid, a.usename, pg_has_role(a.usesysid, 'realtime_reader', 'MEMBER'), l.objid::bigint::int, l.mode, l.granted, a.backend_xid IS NOT NULL
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
  WHERE l.locktype = 'advisory' AND l.classid = 1919247220 AND l.objsubid = 2 AND l.objid::bigint < 2147483648
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
$f$;

-- The sessions of our roles that hold the leader's lock, in any mode.
CREATE OR REPLACE FUNCTION realtime.leaders() RETURNS SETOF int LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT h.pid FROM realtime.lock_holders() h JOIN realtime.leadership l ON h.key = l.key WHERE h.granted AND h.ours
$f$;

-- Takes the leader's lock for this session; false where another session of ours leads.
CREATE OR REPLACE FUNCTION realtime.try_to_lead() RETURNS bool LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  k int := (SELECT l.key FROM realtime.leadership l);
BEGIN
  IF pg_try_advisory_lock(1919247220, k) THEN
    IF k = (SELECT l.key FROM realtime.leadership l) THEN
      RETURN true;
    END IF;
    PERFORM pg_advisory_unlock(1919247220, k);   -- given up in between
  ELSIF NOT EXISTS (SELECT FROM realtime.leaders()) AND EXISTS (SELECT FROM realtime.lock_holders() h WHERE h.key = k AND h.granted AND NOT h.ours) THEN
    UPDATE realtime.leadership l SET key = ('x' || left(gen_random_uuid()::text, 8))::bit(32)::int & 2147483647 WHERE l.key = k RETURNING l.key INTO k;
    RETURN FOUND AND pg_try_advisory_lock(1919247220, k);
  END IF;
  RETURN false;
END $f$;

-- The sessions of roles that are none of ours and hold, or wait for, a lock that only we need: the leader's, the gate other
-- than as a writer does, which shares it in a transaction that has written, and those of tables by which watches and migrations take turns.
-- PREPARE of a statement takes the locks of its tables before anybody's rights are looked at.
CREATE OR REPLACE FUNCTION realtime.strangers() RETURNS TABLE (pid int, who name, lock text) LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $f$
  SELECT DISTINCT h.pid, h.who, CASE h.key WHEN 1 THEN 'the gate' ELSE 'the leader''s lock' END
  FROM realtime.lock_holders() h
  WHERE NOT h.ours AND (h.key IN (2, (SELECT l.key FROM realtime.leadership l)) OR h.key = 1 AND (h.mode <> 'ShareLock' OR NOT h.writes))
  UNION SELECT l.pid, a.usename, l.relation::regclass::text
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
  WHERE l.locktype = 'relation' AND l.relation IN ('realtime.generations'::regclass, to_regclass('realtime.migrations')) AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
    AND NOT pg_has_role(a.usesysid, 'realtime_reader', 'MEMBER') AND NOT has_table_privilege(a.usesysid, l.relation, 'UPDATE')
  ORDER BY 1, 3
$f$;
