-- name: incarnate
-- The incarnation of this moment, made where it is a new one.
SELECT i.n, i.uuid::text FROM realtime.incarnate() i

-- name: incarnations
SELECT i.n, i.uuid::text, i.sysid, i.db::bigint, i.marker::bigint, i.tli, (i.recovery_end - '0/0')::bigint
FROM realtime.incarnation i ORDER BY i.n

-- name: timelines
-- Where each earlier timeline ended.
SELECT t.tli, (t.ended - '0/0')::bigint FROM realtime.timelines() t
