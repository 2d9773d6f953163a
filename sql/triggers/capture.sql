-- The texts of a table's capture functions, with what rendering.sql says of its rows. Run as realtime_owner.
--
-- What runs inside the application's write must never raise and hardly cost:
-- - whole rows as row_to_json(x.*), which no column name can shadow; only alias columns of our own are referred to
--   by a qualified name, and plpgsql variables only through the label `here`, so a column may be called anything;
-- - columns by unqualified name, in a subquery of the row alone: below a row of nulls of the same names, so that a
--   dropped or renamed column is null instead of an error;
-- - no row's JSON is ever parsed: what a json column may hold (\u0000, say) no other function of PostgreSQL need take;
-- - in row triggers NEW and OLD as a whole, or taken apart where the table stands in the same query as a regclass: ALTER
--   then has the query planned anew. Otherwise NEW.col raises after ALTER TYPE in a session that cached the plan;
-- - a row that may be large is rendered where an error can be caught, and beyond realtime.row_bytes() goes as its key;
-- - an UPDATE pairs OLD and NEW by row_number() with a FULL JOIN that the planner can't reduce to a nested loop
--   (its estimate is frozen at the session's first call); a join on the key would break where keys change;
-- - settings that change how values are rendered are set only where they are off and put back at once. Only those
--   that matter to a column of the table are looked at.
--
-- A capture function works for one table, whose oid is in its text, and its partitions. Called for another one (a table
-- that was restored by name brings its triggers) it writes nothing.
--
-- A backend keeps what it compiled and planned of each table that it wrote to (docs/decisions/0012-memory-of-writers.md).
-- So there is one function for each operation, with no text of the others, and what is seldom needed stands behind one
-- expression.

-- INSERT INTO realtime.events SELECT, all its columns in their order, each of its exact type: PostgreSQL then needs no node of
-- its own to convert them. An UPDATE draws one id for all its pairs; elsewhere each row draws its own, which spares a
-- window over the rows. `body` is new_vals, old_vals, new, old and FROM.
CREATE OR REPLACE FUNCTION realtime.insert_source(gen int, id text, n text, op text, body text) RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT format($s$INSERT INTO realtime.events SELECT realtime.next_slot(), %s, %s, pg_current_xact_id(), %s, %s::"char",
    coalesce(here.depth, pg_trigger_depth())::smallint, here.ord, clock_timestamp(), %s;$s$, id, n, gen, op, body)
$f$;

-- What captures a statement of one operation. An UPDATE of one row goes a short way: two windows and a FULL JOIN cost it a
-- third of what its capture costs. A statement's old and new rows are equal in number wherever statement triggers are used:
-- what moves a row to another partition, and shows one of the two, is caught by row triggers. So one new row has one old
-- row, and is its pair, if neither is large. A row that is too large is never put together, not even to see whether it changed.
CREATE OR REPLACE FUNCTION realtime.statement_source(t realtime.captured, op text) RETURNS text LANGUAGE plpgsql STABLE AS $f$
DECLARE
  each text := 'nextval(''realtime.event_id'')';
  k text := realtime.row_item(t, 'x.*', 'k');
  json text := realtime.json_source(t, 'x.*', 'k');
  new_json text := realtime.json_source(t, 'w.r', 'w');
  old_json text := realtime.json_source(t, 'o.r', 'o');
  sized text := realtime.row_item((t.rel, t.gen, t.capture, t.key, '{}', '{}', t.level, t.mark), 'x.*', 'k');
  -- coalesce(x.*) is the whole row whatever its columns are called
  one text := 'SELECT coalesce(x.*) AS r, k.* FROM';
  many text := format('SELECT row_number() OVER () AS n, CASE WHEN k.size <= %s THEN coalesce(x.*) END AS r, k.* FROM', realtime.size_limit(t.rel));
  small text := format('CASE WHEN realtime.plain(%L::regclass, %L) THEN row_to_json(%%s) ELSE realtime.careful_json(%%1$s) END', t.rel, t.capture);
BEGIN
  RETURN CASE op
  WHEN 'insert' THEN
    realtime.insert_source(t.gen, each, '0', '''I''', format('k.vals, NULL::text[], %s, NULL::json FROM new_rows x CROSS JOIN %s', json, k))
  WHEN 'update' THEN format($s$IF NOT EXISTS (SELECT FROM new_rows OFFSET 1)%s THEN
    %s
  ELSE
    %s
  END IF;$s$,
    CASE WHEN realtime.size_source(t.rel) = '0' THEN '' ELSE format(' AND NOT EXISTS (SELECT FROM new_rows x CROSS JOIN %s WHERE k.size > 2000)'
      ' AND NOT EXISTS (SELECT FROM old_rows x CROSS JOIN %1$s WHERE k.size > 2000)', sized) END,
    realtime.insert_source(t.gen, each, '0', '''U''', format(
      'w.vals, o.vals, %s, %s FROM (%s old_rows x CROSS JOIN %s) o CROSS JOIN (%3$s new_rows x CROSS JOIN %4$s) w WHERE o.r *<> w.r',
      CASE WHEN t.hidden = '{}' THEN format(small, 'w.r') ELSE new_json END, CASE WHEN t.hidden = '{}' THEN format(small, 'o.r') ELSE old_json END, one, k)),
    realtime.insert_source(t.gen, '(SELECT nextval(''realtime.event_id''))', '(coalesce(w.n, o.n) - 1)::int',
      'CASE WHEN o.n IS NULL THEN ''I'' WHEN w.n IS NULL THEN ''D'' ELSE ''U'' END', format(
      'w.vals, o.vals, CASE WHEN w.n IS NOT NULL THEN %s END, CASE WHEN o.n IS NOT NULL THEN %s END
      FROM (%s old_rows x CROSS JOIN %s) o FULL JOIN (%3$s new_rows x CROSS JOIN %4$s) w USING (n)
      WHERE o.n IS NULL OR w.n IS NULL OR (o.r *<> w.r) IS NOT FALSE', new_json, old_json, many, k)))
  WHEN 'delete' THEN
    realtime.insert_source(t.gen, each, '0', '''D''', format('NULL::text[], k.vals, NULL::json, %s FROM old_rows x CROSS JOIN %s', json, k))
  ELSE
    realtime.insert_source(t.gen, each, '0', '''T''', 'NULL::text[], NULL::text[], NULL::json, NULL::json')
  END;
END $f$;

CREATE OR REPLACE FUNCTION realtime.row_source(t realtime.captured, op text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT CASE op
    WHEN 'insert' THEN realtime.insert_source(t.gen, e.each, '0', '''I''', format('w.vals, NULL::text[], %s, NULL::json FROM %s', e.new_json, e.w))
    WHEN 'update' THEN realtime.insert_source(t.gen, e.each, '0', '''U''', format('w.vals, o.vals, %s, %s FROM %s CROSS JOIN %s WHERE CASE WHEN greatest(o.size, w.size) <= %s THEN OLD *<> NEW ELSE true END',
      e.new_json, e.old_json, e.w, e.o, realtime.size_limit(t.rel)))
    WHEN 'delete' THEN realtime.insert_source(t.gen, e.each, '0', '''D''', format('NULL::text[], o.vals, NULL::json, %s FROM %s', e.old_json, e.o))
    ELSE realtime.insert_source(t.gen, e.each, '0', 'TG_ARGV[0]', 'NULL::text[], NULL::text[], NULL::json, NULL::json') END
  FROM (SELECT 'nextval(''realtime.event_id'')' AS each, realtime.json_source(t, 'NEW', 'w') AS new_json, realtime.json_source(t, 'OLD', 'o') AS old_json,
    realtime.row_item(t, 'NEW.*', 'w') AS w, realtime.row_item(t, 'OLD.*', 'o') AS o) e
$f$;

-- Where the trigger bears no mark a nested statement still notes the WAL position, to be found among those that do.
CREATE OR REPLACE FUNCTION realtime.place_source() RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT $s$
    IF pg_trigger_depth() > 1 AND ord IS NULL THEN
      ord := (pg_current_wal_insert_lsn() - '0/0')::bigint;
    END IF;$s$
$f$;

-- Takes the action's letter out of the note (realtime.note_source), whose position is the mark. It was made one level
-- less deep than the trigger is. On the trigger's own level a cascade made it, which is a statement nested in a trigger of
-- PostgreSQL's; where its rows come together with those of the query that it belongs to, all count as the query's.
CREATE OR REPLACE FUNCTION realtime.mark_source() RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT $s$
    IF TG_NARGS > 0 THEN
      depth := pg_trigger_depth();
      FOR i IN depth - 1 .. depth LOOP
        note := current_setting(concat(TG_ARGV[0], i), true);
        IF strpos(note, TG_ARGV[1]) > 0 THEN
          IF ord IS NULL THEN
            ord := (split_part(note, ' ', 1)::pg_lsn - '0/0')::bigint;
            depth := i + 1;
          END IF;
          note := replace(note, TG_ARGV[1], '');
          note := set_config(concat(TG_ARGV[0], i), CASE WHEN right(note, 1) <> ' ' THEN note ELSE '' END, true);
        END IF;
      END LOOP;
      ord := coalesce(ord, (pg_current_wal_insert_lsn() - '0/0')::bigint);
    END IF;$s$
$f$;

-- The whole body of the function for one operation. What stands in the first IF is seldom needed, and its one condition is all that most
-- statements pay for it. Where the fuse is open nothing is written (fuse.sql). The gate: a writer that can't share advisory lock 1 has a parked reader to wake (docs/capture.md).
CREATE OR REPLACE FUNCTION realtime.capture_source(t realtime.captured, op text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT format($s$#variable_conflict use_column
<<here>>
DECLARE
  ord bigint; depth smallint;%s nothing record;
BEGIN
  IF %s%s OR pg_trigger_depth() > 1 OR pg_sequence_last_value('realtime.current_slot') < 0%s THEN
    IF %2$s OR pg_sequence_last_value('realtime.current_slot') < 0 THEN
      RETURN nothing;
    END IF;%5$s%s
  END IF;
  %s
  IF FOUND AND NOT pg_try_advisory_xact_lock_shared(1919247220, 1) THEN
    PERFORM pg_notify('realtime', '');
  END IF;%s
  RETURN nothing;
END $s$,
    CASE WHEN m.marked THEN ' note text;' ELSE '' END || s.declare, m.strange, CASE WHEN m.marked THEN ' OR TG_NARGS > 0' ELSE '' END, s.off, s.pin,
    CASE WHEN m.marked THEN realtime.mark_source() ELSE '' END || realtime.place_source(),
    CASE WHEN t.level = 's' THEN realtime.statement_source(t, capture_source.op) ELSE realtime.row_source(t, capture_source.op) END,
    s.unpin)
  FROM (SELECT t.level = 's' AND (t.mark OR capture_source.op = 'truncate') AS marked,
      format('TG_RELID <> ''%s''::oid%s AND NOT realtime.owns(%s, TG_RELID)', t.rel,
        CASE WHEN t.level = 'r' THEN format(' AND pg_partition_root(TG_RELID) IS DISTINCT FROM ''%s''', t.rel) ELSE '' END, t.gen) AS strange) m,
    (SELECT coalesce(string_agg(format(' saved_%s text;', lower(n)), ''), '') AS declare,
      coalesce(string_agg(format(' OR current_setting(%L) %s', n, v.off), ''), '') AS off,
      coalesce(string_agg(format($s$
    IF current_setting(%1$L) %2$s THEN
      saved_%3$s := current_setting(%1$L);
      PERFORM set_config(%1$L, %4$L, true);
    END IF;$s$, n, v.off, lower(n), v.value), ''), '') AS pin,
      format(CASE WHEN count(*) > 1 THEN $s$
  IF coalesce(%s) IS NOT NULL THEN%s
  END IF;$s$ ELSE '%2$s' END, string_agg(format('saved_%s', lower(n)), ', '), string_agg(format($s$
  IF saved_%2$s IS NOT NULL THEN
    PERFORM set_config(%1$L, saved_%2$s, true);
  END IF;$s$, n, lower(n)), '')) AS unpin
    FROM realtime.settings(t.rel, t.vals) n JOIN (VALUES
      ('TimeZone', 'UTC', 'NOT IN (''UTC'', ''Etc/UTC'', ''GMT'')'), ('DateStyle', 'ISO', 'NOT LIKE ''ISO%'''),
      ('IntervalStyle', 'iso_8601', '<> ''iso_8601'''), ('bytea_output', 'hex', '<> ''hex'''),
      ('lc_monetary', 'C', '<> ''C'''), ('quote_all_identifiers', 'off', '<> ''off'''), ('extra_float_digits', '1', '::int < 1')) v(setting, value, off) ON v.setting = n) s
$f$;

-- Makes or drops a function as realtime_owner. An event trigger of the application, which audits DDL say, runs as that role
-- then, and may lack a right: whose function it is, and what mends it, is told.
CREATE OR REPLACE FUNCTION realtime.define(command text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  audits text;
BEGIN
  EXECUTE command;
EXCEPTION WHEN insufficient_privilege THEN
  audits := (SELECT string_agg(format('%s (function %s)', e.evtname, e.evtfoid::regproc), ', ' ORDER BY e.evtname)
    FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid WHERE e.evtenabled <> 'D' AND NOT p.prosecdef);
  IF audits IS NULL THEN
    RAISE;
  END IF;
  RAISE EXCEPTION '%', SQLERRM USING ERRCODE = 'insufficient_privilege', DETAIL = 'Event triggers run as ' || current_user || ' here: ' || audits,
    HINT = 'Let the function of the event trigger be SECURITY DEFINER, or grant ' || current_user || ' what it needs.';
END $f$;

-- Makes a table's capture functions, or makes them anew. Nobody but who runs this may call them.
CREATE OR REPLACE FUNCTION realtime.make_capture(t realtime.captured) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  op text;
BEGIN
  FOREACH op IN ARRAY '{insert,update,delete,truncate}'::text[] LOOP
    PERFORM realtime.define(format('CREATE OR REPLACE FUNCTION realtime.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L',
      concat(t.capture, '_', op), realtime.capture_source(t, op)));
    PERFORM realtime.define(format('REVOKE ALL ON FUNCTION realtime.%I() FROM PUBLIC', concat(t.capture, '_', op)));
  END LOOP;
END $f$;
