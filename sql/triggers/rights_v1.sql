-- Who may do what. Run as realtime_owner, last.
--
-- Invariants: an application's role can reach schema realtime and call position(), nothing else: it cannot read the
-- log (all rows of all tenants), nor call or attach a capture function.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA realtime FROM PUBLIC;
GRANT USAGE ON SCHEMA realtime TO PUBLIC;
GRANT EXECUTE ON FUNCTION realtime.position() TO PUBLIC;
GRANT SELECT ON realtime.events, realtime.events_0, realtime.events_1, realtime.events_2, realtime.events_3, realtime.log_state,
  realtime.generations, realtime.incarnation, realtime.alive, realtime.recorded, realtime.ring, realtime.meta TO realtime_reader;
GRANT EXECUTE ON FUNCTION realtime.check(), realtime.incarnate(), realtime.turn(interval, bigint, pg_snapshot) TO realtime_reader;
