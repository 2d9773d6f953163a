-- The texts of a table's capture functions, with what rendering.sql says of its rows. Run as realtime_owner.
--
-- What runs inside the application's write must never raise and hardly cost:
-- - whole rows as row_to_json(x.*), which no column name can shadow; only alias columns of our own are referred to
--   by a qualified name, and plpgsql variables only through the label `here`, so a column may be called anything;
-- - columns by unqualified name, in a subquery of the row alone: below a row of nulls of the same names, so that a
--   dropped or renamed column is null instead of an error. NEW and OLD stand beside those nulls, so with .* at the end;
-- - no row's JSON is ever parsed: what a json column may hold (\u0000, say) no other function of PostgreSQL need take;
-- - in row triggers NEW and OLD as a whole, or taken apart where the table stands in the same query as a regclass: ALTER
--   then has the query planned anew. Otherwise NEW.col raises after ALTER TYPE in a session that cached the plan;
-- - a row that may be large is rendered where an error can be caught, and beyond realtime.row_bytes() goes as its key;
-- - an UPDATE pairs OLD and NEW by row_number() with a FULL JOIN that the planner can't reduce to a nested loop
--   (its estimate is frozen at the session's first call); a join on the key would break where keys change;
-- - settings that change how values are rendered stand in the function's SET clauses: only those that matter to a column
--   of the table.
--
-- A capture function works for one table, whose oid is in its text, and its partitions. Called for another one (a table
-- that was restored by name brings its triggers) it writes nothing.
--
-- A backend keeps what it compiled and planned of each table that it wrote to (docs/decisions/0012-memory-of-writers.md).
-- So there is one function for each operation, with no text of the others, as few expressions as can be, and what is seldom
-- needed stands where it is prepared only when it is.

-- INSERT INTO realtime.events SELECT, all its columns in their order, each of its exact type: PostgreSQL then needs no node of
-- its own to convert them. An UPDATE draws one id for all its pairs; elsewhere each row draws its own, which spares a
-- window over the rows. `body` is new_vals, old_vals, new, old and FROM. Where the trigger bears no mark a nested statement
-- still notes the WAL position, to be found among those that do. No variable of plpgsql stands in the statement then: it is
-- planned once, whatever PostgreSQL guesses of the number of rows.
CREATE OR REPLACE FUNCTION realtime.insert_source(t realtime.captured, id text, n text, op text, body text) RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT format('INSERT INTO realtime.events SELECT realtime.next_slot(), %s, %s, pg_current_xact_id(), %s, %s, %s, clock_timestamp(), %s;', id, n, t.gen, op,
    CASE WHEN t.mark THEN 'here.depth, here.ord'
      ELSE 'pg_trigger_depth()::smallint, CASE WHEN pg_trigger_depth() > 1 THEN (pg_current_wal_insert_lsn() - ''0/0'')::bigint END' END, body)
$f$;

-- What captures an UPDATE. One of one row goes a short way: two windows and a FULL JOIN cost it a third of what its capture
-- costs. A statement's old and new rows are equal in number wherever statement triggers are used: what moves a row to another
-- partition, and shows one of the two, is caught by row triggers. So one new row has one old row, and is its pair, if neither
-- is large. A row that is too large is never put together, not even to see whether it changed. What finds that the short way
-- is not enough is asked only where it wrote nothing, so that few backends keep it. What the long way writes has an `n` from 1
-- on, which tells readers that a command before it wrote nothing.
CREATE OR REPLACE FUNCTION realtime.update_source(t realtime.captured) RETURNS text LANGUAGE plpgsql STABLE AS $f$
DECLARE
  m text := realtime.missing_item(t); r text := realtime.own(t, 'r'); n text := realtime.own(t, 'n'); size text := realtime.own(t, 'size');
  -- coalesce(x.*) is the whole row whatever its columns are called
  one text := format('coalesce(x.*) AS %s, ', r);
  many text := format('row_number() OVER () AS %s, CASE WHEN %s <= %s THEN coalesce(x.*) END AS %s, ', n, realtime.size_source(t.rel), realtime.size_limit(t.rel), r);
  small text := format('CASE WHEN realtime.plain(%L::regclass, %L) THEN row_to_json(%%s) ELSE realtime.careful_json(%%1$s) END', t.rel, t.capture);
  large text := format('EXISTS (SELECT FROM %s CROSS JOIN %s WHERE k.%s > 2000)', m,
    realtime.row_item((t.rel, t.gen, t.capture, t.key, '{}', '{}', t.level, t.mark), '', '%s x', 'k'), size);
  new_json text := realtime.json_source(t, 'w.' || r, 'w'); old_json text := realtime.json_source(t, 'o.' || r, 'o');
BEGIN
  RETURN format($s$%s
  IF NOT FOUND THEN
    IF EXISTS (SELECT FROM new_rows OFFSET 1)%s THEN
      %s
    END IF;
  END IF;$s$,
    realtime.insert_source(t, 'nextval(''realtime.event_id'')', '0', '''U''::"char"', format(
      '%s, %s, %s, %s FROM %s CROSS JOIN %s CROSS JOIN %s WHERE NOT EXISTS (SELECT FROM new_rows OFFSET 1) AND CASE WHEN greatest(o.%s, w.%8$s) <= 2000 THEN o.%s *<> w.%9$s END',
      realtime.vals_of(t, 'w'), realtime.vals_of(t, 'o'), CASE WHEN t.hidden = '{}' THEN format(small, 'w.' || r) ELSE new_json END,
      CASE WHEN t.hidden = '{}' THEN format(small, 'o.' || r) ELSE old_json END, m,
      realtime.row_item(t, one, 'old_rows x', 'o'), realtime.row_item(t, one, 'new_rows x', 'w'), size, r)),
    CASE WHEN realtime.size_source(t.rel) = '0' THEN '' ELSE format(' OR %s OR %s', replace(large, '%s x', 'new_rows x'), replace(large, '%s x', 'old_rows x')) END,
    realtime.insert_source(t, '(SELECT nextval(''realtime.event_id''))', format('coalesce(w.%s, o.%1$s)::int', n),
      format('CASE WHEN o.%s IS NULL THEN ''I'' WHEN w.%1$s IS NULL THEN ''D'' ELSE ''U'' END::"char"', n), format(
      '%1$s, %2$s, CASE WHEN w.%3$s IS NOT NULL THEN %4$s END, CASE WHEN o.%3$s IS NOT NULL THEN %5$s END FROM %6$s
        CROSS JOIN (%7$s FULL JOIN %8$s ON o.%3$s = w.%3$s) WHERE o.%3$s IS NULL OR w.%3$s IS NULL OR (o.%9$s *<> w.%9$s) IS NOT FALSE',
      realtime.vals_of(t, 'w'), realtime.vals_of(t, 'o'), n, new_json, old_json, m,
      realtime.row_item(t, many, 'old_rows x', 'o'), realtime.row_item(t, many, 'new_rows x', 'w'), r)));
END $f$;

-- What captures a statement of another operation.
CREATE OR REPLACE FUNCTION realtime.statement_source(t realtime.captured, op text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT realtime.insert_source(t, 'nextval(''realtime.event_id'')', '0', format('%L::"char"', upper(left(op, 1))), CASE op
    WHEN 'insert' THEN format('%s, NULL::text[], %s, NULL::json FROM %s CROSS JOIN %s', e.vals, e.json, e.m, realtime.row_item(t, e.whole, 'new_rows x', 'k'))
    WHEN 'delete' THEN format('NULL::text[], %s, NULL::json, %s FROM %s CROSS JOIN %s', e.vals, e.json, e.m, realtime.row_item(t, e.whole, 'old_rows x', 'k'))
    ELSE 'NULL::text[], NULL::text[], NULL::json, NULL::json' END)
  FROM (SELECT realtime.vals_of(t, 'k') AS vals, realtime.json_source(t, 'k.' || realtime.own(t, 'r'), 'k') AS json, realtime.missing_item(t) AS m,
    format('coalesce(x.*) AS %s, ', realtime.own(t, 'r')) AS whole) e
$f$;

CREATE OR REPLACE FUNCTION realtime.row_source(t realtime.captured, op text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT realtime.insert_source(t, 'nextval(''realtime.event_id'')', '0', CASE op WHEN 'truncate' THEN 'TG_ARGV[0]::"char"' ELSE format('%L::"char"', upper(left(op, 1))) END, CASE op
    WHEN 'insert' THEN format('%s, NULL::text[], %s, NULL::json FROM %s CROSS JOIN %s', e.new_vals, e.new_json, e.m, e.w)
    WHEN 'update' THEN format('%s, %s, %s, %s FROM %s CROSS JOIN %s CROSS JOIN %s WHERE CASE WHEN greatest(o.%s, w.%8$s) <= %s THEN OLD.* *<> NEW.* ELSE true END',
      e.new_vals, e.old_vals, e.new_json, e.old_json, e.m, e.w, e.o, realtime.own(t, 'size'), realtime.size_limit(t.rel))
    WHEN 'delete' THEN format('NULL::text[], %s, NULL::json, %s FROM %s CROSS JOIN %s', e.old_vals, e.old_json, e.m, e.o)
    ELSE 'NULL::text[], NULL::text[], NULL::json, NULL::json' END)
  FROM (SELECT realtime.json_source(t, 'NEW.*', 'w') AS new_json, realtime.json_source(t, 'OLD.*', 'o') AS old_json, realtime.missing_item(t) AS m,
    realtime.vals_of(t, 'w') AS new_vals, realtime.vals_of(t, 'o') AS old_vals,
    realtime.row_item(t, '', '(SELECT NEW.*) x', 'w') AS w, realtime.row_item(t, '', '(SELECT OLD.*) x', 'o') AS o) e
$f$;

-- Takes the action's letter out of the note (realtime.note_source), whose position is the mark. It was made one level
-- less deep than the trigger is. On the trigger's own level a cascade made it, which is a statement nested in a trigger of
-- PostgreSQL's; where its rows come together with those of the query that it belongs to, all count as the query's.
CREATE OR REPLACE FUNCTION realtime.mark_source(t realtime.captured, op text) RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT format($s$
  depth := pg_trigger_depth();
  note := current_setting(concat(%1$L, depth - 1), true);
  IF strpos(note, %2$L) > 0 THEN
    ord := %3$s;
    note := set_config(concat(%1$L, depth - 1), %4$s, true);
  END IF;
  IF strpos(current_setting(concat(%1$L, depth), true), %2$L) > 0 THEN
    note := current_setting(concat(%1$L, depth), true);
    PERFORM set_config(concat(%1$L, depth), %4$s, true);
    IF ord IS NULL THEN
      ord := %3$s;
      depth := depth + 1;
    END IF;
  END IF;
  IF ord IS NULL THEN
    ord := (pg_current_wal_insert_lsn() - '0/0')::bigint;
  END IF;$s$, format('realtime.%s_', t.capture), left(op, 1), $s$(split_part(note, ' ', 1)::pg_lsn - '0/0')::bigint$s$,
    format($s$CASE WHEN ltrim(split_part(note, ' ', 2), %1$L) <> '' THEN replace(note, %1$L, '') ELSE '' END$s$, left(op, 1)))
$f$;

-- The same for each row (realtime.row_note_source). While rows of the query are left, it is one of them, and after them a
-- cascade's.
CREATE OR REPLACE FUNCTION realtime.row_mark_source(t realtime.captured, op text) RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT format($s$
  depth := pg_trigger_depth();
  FOR i IN depth - 1 .. depth LOOP
    note := current_setting(concat(%2$L, i), true);
    IF note <> '' THEN
      depth := i + 1;
      ord := (current_setting(concat(%1$L, i), true)::pg_lsn - '0/0')::bigint;
      note := set_config(concat(%2$L, i), CASE WHEN note <> '1' THEN (note::int - 1)::text ELSE '' END, true);
      EXIT;
    END IF;
  END LOOP;
  IF ord IS NULL THEN
    ord := (pg_current_wal_insert_lsn() - '0/0')::bigint;
  END IF;$s$, format('realtime.%s_', t.capture), format('realtime.%s_%s', t.capture, left(op, 1)))
$f$;

-- The whole body of the function for one operation. Where the fuse is open nothing is written (fuse.sql). The gate: a writer that can't share advisory lock 1 has a parked reader
-- to wake (docs/capture.md).
CREATE OR REPLACE FUNCTION realtime.capture_source(t realtime.captured, op text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT format($s$#variable_conflict use_column
<<here>>
DECLARE
  %s nothing record;
BEGIN
  IF TG_RELID <> '%s'::oid%s AND NOT realtime.owns(%s, TG_RELID) OR pg_sequence_last_value('realtime.current_slot') < 0 THEN
    RETURN nothing;
  END IF;%s
  %s
  IF FOUND AND NOT pg_try_advisory_xact_lock_shared(1919247220, 1) THEN
    PERFORM pg_notify('realtime', '');
  END IF;
  RETURN nothing;
END $s$,
    CASE WHEN m.mark THEN 'ord bigint; depth smallint; note text;' END, t.rel,
    CASE WHEN t.level = 'r' THEN format(' AND pg_partition_root(TG_RELID) IS DISTINCT FROM ''%s''', t.rel) END, t.gen,
    CASE WHEN m.mark AND t.level = 'r' THEN realtime.row_mark_source(t, op) WHEN m.mark THEN realtime.mark_source(t, op) END,
    CASE WHEN t.level = 'r' THEN realtime.row_source(m, op) WHEN op = 'update' THEN realtime.update_source(m) ELSE realtime.statement_source(m, op) END)
  FROM (SELECT (ROW(t.rel, t.gen, t.capture, t.key, t.vals, t.hidden, t.level, CASE WHEN op = 'truncate' THEN t.level = 's' ELSE t.mark END)::realtime.captured).*) m
$f$;

-- The settings that a table's functions run with, each as it was again when they end: those that change how its rows are rendered.
CREATE OR REPLACE FUNCTION realtime.settings_source(t realtime.captured) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT string_agg(format(' SET %I = %L', n, v.value), '') FROM realtime.settings(t.rel, t.vals) n JOIN (VALUES
    ('TimeZone', 'UTC'), ('DateStyle', 'ISO'), ('IntervalStyle', 'iso_8601'), ('bytea_output', 'hex'), ('lc_monetary', 'C'),
    ('quote_all_identifiers', 'off'), ('extra_float_digits', '1')) v(setting, value) ON v.setting = n
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
    PERFORM realtime.define(format('CREATE OR REPLACE FUNCTION realtime.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp%s AS %L',
      concat(t.capture, '_', op), realtime.settings_source(t), realtime.capture_source(t, op)));
    PERFORM realtime.define(format('REVOKE ALL ON FUNCTION realtime.%I() FROM PUBLIC', concat(t.capture, '_', op)));
  END LOOP;
END $f$;
