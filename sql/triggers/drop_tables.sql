-- The way back of tables.sql. Run by whoever migrates.
-- Invariant: a table goes, with its rows, only where it is the very one that tables.sql made, in the form in which it was
-- made. One that was renamed, altered, restored from a dump or made anew by others stays, watched or not, as it is.
DO $do$
DECLARE
  o record;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  PERFORM realtime.lock_watched();   -- all at once: the way down may go on to the others
  FOR o IN SELECT c.name, t.oid::regclass AS rel, c.relid = t.oid AND c.form = realtime.form(t.oid) AS ours
    FROM realtime.created c JOIN pg_class t ON t.oid = to_regclass(c.name) ORDER BY c.name
  LOOP
    IF o.ours THEN
      PERFORM realtime.unwatch(o.rel);
      DELETE FROM realtime.policies p WHERE (p.name, p.channel) IN (VALUES ('posts for everybody', 'posts'),
        ('notifications for whom they are', 'notifications:user_id={sub}')) AND split_part(p.channel, ':', 1) = split_part(o.name, '.', 2);
      EXECUTE format('DROP TABLE %s', o.rel);
    ELSE
      RAISE WARNING '% is no more what was made here: it stays as it is; to drop it: DROP TABLE %', o.name, o.rel;
    END IF;
  END LOOP;
  DELETE FROM realtime.created;
END $do$;
