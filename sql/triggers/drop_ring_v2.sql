-- What ring_v2.sql added; the functions that it replaced come back with ring_v1.sql. Run as realtime_owner.
DROP PROCEDURE realtime.finish_purges(interval, bigint);
DROP FUNCTION realtime.purge(), realtime.turn_alone(pg_snapshot), realtime.switch(int, interval), realtime.note_emptied(bigint[], int[]);
DROP TABLE realtime.purges;
ALTER TABLE realtime.events ALTER new_vals SET STATISTICS -1, ALTER old_vals SET STATISTICS -1, ALTER new SET STATISTICS -1, ALTER old SET STATISTICS -1;
