-- The tables of schema realtime: the event log and what describes it. Run as realtime_owner, first.
--
-- Of these files: each holds one family whole, and runs as it stands. All but this one may run again over what is there
-- (CREATE OR REPLACE), and rights.sql runs after whatever ran. From the first release on a released file is never edited: a
-- new form is a new file, `<name>_v2.sql`, with the *whole* family in that form; a migration runs it, and its way back runs
-- the file before. sql/schema.sql shows what all of them make together.
--
-- Invariants: rows of `events` are inserted by capture functions and by generations, never updated; only
-- turns (partitions.sql) and a foreign incarnation (incarnation.sql) remove them, a whole partition at a time, and only
-- together with a `floor` that contains what was removed. A position is honoured if and only if it contains `floor`.
--
-- Advisory locks (two-integer keys, first 1919247220): 1 the gate, 2 the leader (both the server's; 2 is given up for
-- another where a role takes it that is none of ours). Whatever else takes turns does it by the lock of a table: of generations
-- (watch, unwatch, check), of migrations. A role without rights can take those too, by PREPARE, and is told of (realtime.strangers).
-- What servers need to connect takes turns by the lock of a row, which nobody gets without a right.

CREATE SEQUENCE realtime.event_id AS bigint CACHE 1 NO CYCLE;   -- CACHE 1: the order of ids is the order of drawing

CREATE TABLE realtime.events (
  slot smallint NOT NULL,      -- which partition
  id bigint NOT NULL,          -- drawn while row locks are held; one for all rows of an UPDATE statement, else one per row
  n int NOT NULL,              -- ordinal among the rows of one id, from 1 where an UPDATE went the long way, gaps where it changed nothing
  xid xid8 NOT NULL,
  gen int NOT NULL,
  op "char" NOT NULL,          -- I U D T; R partitions changed behind the parent's back; G a generation begins or ends; P rights change (policies.sql)
  depth smallint NOT NULL,     -- over 1 for changes made by triggers, and by cascades where the table is marked
  ord bigint,                  -- the mark: WAL position when the rows had been written; null where nothing nests
  at timestamptz NOT NULL,
  new_vals text[], old_vals text[],   -- the columns of generations.vals as text
  new json, old json                  -- the whole row; raw newlines of json columns are left in
) PARTITION BY LIST (slot);
-- Never vacuumed for its inserts: a partition lives until TRUNCATE empties it.
CREATE TABLE realtime.events_0 PARTITION OF realtime.events FOR VALUES IN (0) WITH (autovacuum_enabled = false);
CREATE TABLE realtime.events_1 PARTITION OF realtime.events FOR VALUES IN (1) WITH (autovacuum_enabled = false);
CREATE TABLE realtime.events_2 PARTITION OF realtime.events FOR VALUES IN (2) WITH (autovacuum_enabled = false);
CREATE TABLE realtime.events_3 PARTITION OF realtime.events FOR VALUES IN (3) WITH (autovacuum_enabled = false);
-- Where rows go when the fuse opens in the midst of a statement: nowhere (fuse.sql).
CREATE TABLE realtime.events_left_out PARTITION OF realtime.events FOR VALUES IN (-4, -3, -2, -1) WITH (autovacuum_enabled = false);
CREATE INDEX ON realtime.events (xid);
-- Values of rows have no business in the statistics, which outlive a TRUNCATE. (The partitions' too.)
ALTER TABLE realtime.events ALTER new_vals SET STATISTICS 0, ALTER old_vals SET STATISTICS 0, ALTER new SET STATISTICS 0, ALTER old SET STATISTICS 0;

CREATE TABLE realtime.event_log_state (
  one bool PRIMARY KEY DEFAULT true CHECK (one),
  floor pg_snapshot NOT NULL,
  healed bigint NOT NULL DEFAULT 0,   -- the last opening of the fuse that is over; the two below are of one that is not (fuse.sql)
  healing bigint, waits text[]
);

-- Which partition writers go on in: the value of a sequence, because to read it is one call of a function, with no query
-- (a table would cost each write a twentieth), and because to set it is no DDL, which an event trigger of the application
-- could forbid. It is no part of a transaction: all see it at once, and a rollback leaves it. A writer that has read it and
-- is late writes to the slot before, and turns allow for that.
-- Below 0 the fuse is open, and writers write nothing (fuse.sql): it is 4 less than the partition was.
CREATE SEQUENCE realtime.current_slot AS smallint MINVALUE -4 MAXVALUE 3 CACHE 1 NO CYCLE;
SELECT pg_catalog.setval('realtime.current_slot', 0);
-- VOLATILE as what it calls, so that it is planned into the statement. Never null, whatever happened to the sequence.
CREATE OR REPLACE FUNCTION realtime.slot() RETURNS smallint LANGUAGE sql VOLATILE AS
  $f$SELECT coalesce(pg_catalog.pg_sequence_last_value('realtime.current_slot'), 0)::smallint$f$;

-- The fuse (fuse.sql): the number of its newest opening, and how large the present partition may become.
CREATE SEQUENCE realtime.fuse_opened AS bigint MINVALUE 0 CACHE 1 NO CYCLE;
CREATE SEQUENCE realtime.fuse_room AS bigint MINVALUE 0 CACHE 1 NO CYCLE;
SELECT pg_catalog.setval('realtime.fuse_opened', 0), pg_catalog.setval('realtime.fuse_room', 4294967296);
-- Room that is given back where the disk is full. Without index and TOAST, so that to empty it takes no room, and without rows:
-- what is written is rolled back. VACUUM would give back pages that hold nothing. One row fills a page.
CREATE UNLOGGED TABLE realtime.ballast (a name, b name, c name, d name, e name, f name, g name) WITH (fillfactor = 10, autovacuum_enabled = false, vacuum_truncate = false);

-- The key of the leader's advisory lock. Any role may take such a lock, and see which are held. So a key that is held by
-- a role that is none of ours is given up for another, which only our roles can read (leader.sql).
CREATE TABLE realtime.leadership (one bool PRIMARY KEY DEFAULT true CHECK (one), key int NOT NULL DEFAULT 2);

-- A generation says how the events of one table are to be read. Exactly one row per watched table has NOT ended:
-- the others were superseded (a newer row has their `capture`) or their table is off the air.
CREATE TABLE realtime.generations (
  gen int PRIMARY KEY,
  relid oid NOT NULL, schema text NOT NULL, name text NOT NULL,
  key text[],                  -- primary-key columns in index order; null without a primary key
  routes text[] NOT NULL,      -- in channel grammar, canonical, without the key
  vals text[] NOT NULL,        -- names of the columns in new_vals and old_vals: key columns, then the other route columns
  types text[] NOT NULL,       -- format_type of each
  json_types "char"[] NOT NULL,-- n number, b boolean, s string, t timestamp (text form differs), o other
  spellings "char"[] NOT NULL, -- how each is spelled (realtime.spelling); null in the key: it can be no channel
  level "char" NOT NULL,       -- s statement triggers, r row triggers
  mark bool NOT NULL,
  capture text NOT NULL,       -- name of the table's capture function; stays over generations, so it names the watch
  captured oid NOT NULL,       -- the table's oid in the text of that function: another than relid after a restore
  ended bool NOT NULL DEFAULT false,
  always bool NOT NULL DEFAULT false, -- its triggers are ENABLE ALWAYS
  labels text[] NOT NULL DEFAULT '{}',-- of the enums beneath its columns
  fingerprint text NOT NULL,   -- of the definition in the catalog that this generation was made from
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What was last seen of the relations of each live generation, a partitioned table's partitions too (relations.sql).
CREATE TABLE realtime.relations (
  gen int, relid oid, filenode oid NOT NULL, columns int, triggers text, empty bool,
  noted xid8 NOT NULL DEFAULT pg_current_xact_id(),
  PRIMARY KEY (gen, relid)
);

CREATE TABLE realtime.incarnation (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, uuid uuid NOT NULL DEFAULT gen_random_uuid(),
  sysid bigint NOT NULL, db oid NOT NULL, marker oid NOT NULL, tli int NOT NULL, recovery_end pg_lsn,
  started timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- UNLOGGED on purpose: crash recovery and promotion empty it, a clean restart does not.
CREATE UNLOGGED TABLE realtime.alive (one bool PRIMARY KEY DEFAULT true CHECK (one), n bigint NOT NULL);

-- The partitions' own clock and the snapshots that turns recorded, see partitions.sql.
CREATE TABLE realtime.partitions_clock (
  one bool PRIMARY KEY DEFAULT true CHECK (one),
  elapsed interval NOT NULL DEFAULT '0',
  seen timestamptz NOT NULL DEFAULT clock_timestamp(),
  switched interval NOT NULL DEFAULT '0'
) WITH (fillfactor = 50);
CREATE TABLE realtime.recorded (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  elapsed interval NOT NULL,
  snapshot pg_snapshot NOT NULL
);

-- Requests to purge, see partitions.sql.
CREATE TABLE realtime.purges (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  by text NOT NULL DEFAULT session_user,
  requested timestamptz NOT NULL DEFAULT clock_timestamp(),
  slots int[] NOT NULL DEFAULT '{0,1,2,3}',   -- partitions that have not been emptied since
  done timestamptz
);

-- What servers go by: the version of this schema, and the oldest for which a server can be made that still works with it.
-- 1 and 2 were before the first release, and nothing leads from them.
CREATE TABLE realtime.meta (version int PRIMARY KEY, compatible_from int NOT NULL);   -- a key, or a publication FOR ALL TABLES forbids its UPDATE
INSERT INTO realtime.meta VALUES (3, 3);

-- Tables that a migration created, and so may drop: as long as they are the same relation, in the same form (realtime.form).
CREATE TABLE realtime.created (relid oid PRIMARY KEY, name text NOT NULL, form text NOT NULL);

-- What is visible now, as if everything from this transaction's own xid on were not: transactions that are open
-- now may yet write events, so they are in its xip, whatever their xid.
CREATE OR REPLACE FUNCTION realtime.floor_now() RETURNS pg_snapshot LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  own bigint := pg_current_xact_id()::text::bigint;
  now pg_snapshot := pg_current_snapshot();
  open text;
BEGIN
  SELECT string_agg(x::text, ',' ORDER BY x) INTO open FROM (
    SELECT x::text::bigint AS x FROM pg_snapshot_xip(now) x
    UNION SELECT generate_series(pg_snapshot_xmax(now)::text::bigint, own - 1)) o WHERE o.x < own;
  RETURN concat(coalesce(split_part(open, ',', 1), own::text), ':', own, ':', open)::pg_snapshot;
END $f$;

INSERT INTO realtime.event_log_state (floor) VALUES (realtime.floor_now());
INSERT INTO realtime.partitions_clock DEFAULT VALUES;
INSERT INTO realtime.leadership DEFAULT VALUES;
