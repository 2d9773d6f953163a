-- Makes the capture functions of all live watches anew, from the text that is installed. Run as realtime_owner.
-- Invariants: the generations stay, so this is only for texts that write the same log; a table that was altered since its
-- generation began keeps its function, which realtime.check() replaces with its next generation. No table is locked:
-- a writer has the old text or the new one.
CREATE FUNCTION realtime.recapture() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  o record;
BEGIN
  PERFORM pg_advisory_xact_lock(1919247220, 3);
  FOR o IN SELECT g.capture, realtime.capture_source(l.rel, g.gen, g.vals, d.hidden, g.level, g.mark) AS source
    FROM realtime.located() l JOIN realtime.generations g ON g.gen = l.gen CROSS JOIN LATERAL realtime.describe(l.rel) d
    WHERE d.fingerprint = g.fingerprint
  LOOP
    EXECUTE format('CREATE OR REPLACE FUNCTION realtime.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L',
      o.capture, o.source);
  END LOOP;
END $f$;
SELECT realtime.recapture();
DROP FUNCTION realtime.recapture();
