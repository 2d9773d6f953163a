-- name: are_tables
-- The tables that these names, once locked, do not belong to: another relation was put in their place.
SELECT t.name FROM unnest(%(names)s::text[], %(relids)s::bigint[]) t(name, relid)
WHERE to_regclass(t.name)::oid::bigint IS DISTINCT FROM t.relid

-- name: savepoint_event_log
SAVEPOINT event_log

-- name: lock_event_log
-- Only until the read of where it stands has ended: whoever rolls back to the savepoint gives the lock back.
LOCK TABLE realtime.events IN ACCESS SHARE MODE

-- name: unlock_event_log
ROLLBACK TO SAVEPOINT event_log

-- name: may_read_rows
-- What decides whether a table's rows can be read for a channel: the right to read them, row security, and whether an
-- index begins with a column of the route. Then the columns without the virtual ones, which no change bears, where there are
-- such, and whether nothing of an owner's runs when a row is rendered.
SELECT has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid), EXISTS (
         SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
         WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND a.attname = ANY (%(route)s)),
       CASE WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped)
         THEN realtime.shown(c.oid) END, realtime.plain_table(c.oid)
FROM pg_class c WHERE c.oid = %(relid)s::bigint::oid
