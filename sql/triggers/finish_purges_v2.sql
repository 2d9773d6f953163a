-- realtime.finish_purges() in place of that of ring_v2.sql. Run as realtime_owner.
--
-- A procedure that commits can pin no search_path, and who calls it may have every right there is: so each operator is
-- named with its schema, or another's of the same name would run in its place.

-- Waits until every request is done, and sees to it itself where no server has led for two seconds. Nothing is held
-- between its steps, which is why it can't run in a transaction block. Returns how many requests are still open.
CREATE OR REPLACE PROCEDURE realtime.finish_purges(wait interval DEFAULT '1 minute', INOUT still_open bigint DEFAULT NULL) LANGUAGE plpgsql AS $f$
DECLARE
  older pg_snapshot; newer pg_snapshot; step int := 0;
  steps numeric := EXTRACT(epoch FROM wait) OPERATOR(pg_catalog.*) 10.0;
BEGIN
  LOOP
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    still_open := (SELECT pg_catalog.count(*) FROM realtime.purges WHERE done IS NULL);
    EXIT WHEN still_open OPERATOR(pg_catalog.=) 0 OR step OPERATOR(pg_catalog.>=) steps;
    IF step OPERATOR(pg_catalog.%) 20 OPERATOR(pg_catalog.=) 0 THEN
      older := newer;
      newer := pg_catalog.pg_current_snapshot();
    END IF;
    IF NOT realtime.turn_alone(older) THEN
      older := NULL;
      newer := NULL;
    END IF;
    step := step OPERATOR(pg_catalog.+) 1;
    COMMIT;
    PERFORM pg_catalog.pg_sleep(0.1);
  END LOOP;
END $f$;
