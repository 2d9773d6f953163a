-- realtime.finish_purges() as ring_v2.sql made it, for the way back. Run as realtime_owner.

-- Waits until every request is done, and sees to it itself where no server has led for two seconds. Nothing is held
-- between its steps, which is why it can't run in a transaction block. Returns how many requests are still open.
CREATE OR REPLACE PROCEDURE realtime.finish_purges(wait interval DEFAULT '1 minute', INOUT still_open bigint DEFAULT NULL) LANGUAGE plpgsql AS $f$
DECLARE
  older pg_snapshot; newer pg_snapshot; step int := 0;
BEGIN
  LOOP
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    still_open := (SELECT pg_catalog.count(*) FROM realtime.purges WHERE done IS NULL);
    EXIT WHEN still_open = 0 OR step >= 10 * EXTRACT(epoch FROM wait);
    IF step % 20 = 0 THEN
      older := newer;
      newer := pg_catalog.pg_current_snapshot();
    END IF;
    IF NOT realtime.turn_alone(older) THEN
      older := NULL;
      newer := NULL;
    END IF;
    step := step + 1;
    COMMIT;
    PERFORM pg_catalog.pg_sleep(0.1);
  END LOOP;
END $f$;
