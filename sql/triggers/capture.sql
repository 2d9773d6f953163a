-- The text of a table's capture function. Run as realtime_owner.
--
-- What runs inside the application's write must never raise and hardly cost:
-- - whole rows as row_to_json(x.*), which no column name can shadow; only alias columns of our own are referred to
--   by a qualified name, and plpgsql variables only through the label `here`, so a column may be called anything;
-- - columns of the key and the routes by unqualified name, in a subquery of the row alone: below a row of nulls of
--   the same names, so that a dropped or renamed column is null instead of an error;
-- - in row triggers only NEW and OLD as a whole: NEW.col raises after ALTER TYPE in a session that cached the plan;
-- - an UPDATE pairs OLD and NEW by row_number() with a FULL JOIN that the planner can't reduce to a nested loop
--   (its estimate is frozen at the session's first call); a join on the key would break where keys change;
-- - settings that change how values are rendered are set only where they are off and put back at once. Only those
--   that matter to a column of the table are looked at.

-- The settings that can change how the table's rows are rendered (types are followed into domains, arrays,
-- composites and ranges; a type that we do not know may depend on all of them).
CREATE OR REPLACE FUNCTION realtime.settings(rel oid, vals text[]) RETURNS SETOF text LANGUAGE sql STABLE AS $f$
  WITH RECURSIVE t(oid, as_text) AS (
    SELECT atttypid, attname = ANY (vals) FROM pg_attribute WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped
    UNION SELECT n.oid, t.as_text OR n.ranged FROM t JOIN pg_type p ON p.oid = t.oid CROSS JOIN LATERAL (
      SELECT p.typbasetype, false WHERE p.typtype = 'd'
      UNION ALL SELECT p.typelem, false WHERE p.typcategory = 'A'
      UNION ALL SELECT atttypid, false FROM pg_attribute WHERE p.typtype = 'c' AND attrelid = p.typrelid AND attnum > 0 AND NOT attisdropped
      UNION ALL SELECT rngsubtype, true FROM pg_range WHERE p.oid IN (rngtypid, rngmultitypid)) n(oid, ranged)),
  b AS (SELECT t.oid, t.as_text, p.typname::text AS name, p.typtype = 'b' AND p.typcategory <> 'A' AND s.nspname <> 'pg_catalog' AS unknown
    FROM t JOIN pg_type p ON p.oid = t.oid JOIN pg_namespace s ON s.oid = p.typnamespace)
  SELECT s.setting FROM (VALUES ('TimeZone', '{timestamptz}'::text[], false), ('DateStyle', '{date,timestamp,timestamptz}', true),
      ('IntervalStyle', '{interval}', false), ('bytea_output', '{bytea}', false), ('lc_monetary', '{money}', false),
      ('extra_float_digits', '{float4,float8,point,line,lseg,box,path,polygon,circle}', false)) s(setting, types, only_text)
  WHERE EXISTS (SELECT FROM b WHERE b.unknown OR b.name = ANY (s.types) AND (b.as_text OR NOT s.only_text))
  ORDER BY 1
$f$;

-- ARRAY[...] of the columns as text, or null where there are none. `source` is a row (s) or a json document (r).
CREATE OR REPLACE FUNCTION realtime.vals_source(vals text[], rel oid, level "char", source text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT coalesce('ARRAY[' || string_agg(CASE WHEN level = 's' THEN format('%I::text', v.name)
    WHEN realtime.json_type(a.atttypid) = 't' THEN format('replace(replace(%s ->> %L, ''T'', '' ''), ''+00:00'', ''+00'')', source, v.name)
    WHEN realtime.base_type(a.atttypid) = 'bpchar'::regtype THEN format('rtrim(%s ->> %L)', source, v.name)
    ELSE format('%s ->> %L', source, v.name) END, ', ' ORDER BY v.i) || ']::text[]', 'NULL::text[]')
  FROM unnest(vals) WITH ORDINALITY v(name, i) JOIN pg_attribute a ON a.attrelid = rel AND a.attname = v.name
$f$;

CREATE OR REPLACE FUNCTION realtime.json_source(hidden text[], source text) RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT CASE WHEN hidden = '{}' THEN format('row_to_json(%s)', source) ELSE format(
    '(SELECT coalesce(json_object_agg(e.key, e.value), ''{}'') FROM json_each(row_to_json(%s)) e WHERE e.key <> ALL (%L::text[]))', source, hidden) END
$f$;

-- INSERT INTO realtime.events ... SELECT. Columns in the table's order, each of its exact type: PostgreSQL then needs no node
-- of its own to convert them. An UPDATE draws one id for all its pairs; elsewhere each row draws its own, which spares
-- a window over the rows. `body` is new_vals, old_vals, new, old and FROM.
CREATE OR REPLACE FUNCTION realtime.insert_source(gen int, id text, n text, op text, body text) RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT format($s$INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
    SELECT realtime.slot(), %s, %s::int, pg_current_xact_id(), %s, %s::"char", here.depth, here.ord, clock_timestamp(),
      %s;$s$, id, n, gen, op, body)
$f$;

-- An UPDATE of one row goes a short way: two windows and a FULL JOIN cost it a third of what its capture costs. A statement's
-- old and new rows are equal in number wherever statement triggers are used: what moves a row to another partition, and
-- shows one of the two, is caught by row triggers. So one new row has one old row, and is its pair.
CREATE OR REPLACE FUNCTION realtime.statement_source(rel oid, gen int, vals text[], hidden text[]) RETURNS text LANGUAGE plpgsql STABLE AS $f$
DECLARE
  each text := 'nextval(''realtime.event_id'')';
  nulls text := (SELECT string_agg(format('NULL::text AS %I', v), ', ') FROM unnest(vals) v);
  -- as LATERAL, so that the row's own columns are nearest, then the nulls, and nothing of ours comes between
  vals_of_x text := format('LATERAL (SELECT v.vals FROM (SELECT %s) missing CROSS JOIN LATERAL (SELECT %s AS vals FROM (SELECT x.*) y) v) k',
    coalesce(nulls, ''), realtime.vals_source(vals, rel, 's', NULL));
  json text := realtime.json_source(hidden, 'x.*');
  -- coalesce(x.*) is the whole row whatever its columns are called
  side text := '(SELECT %s coalesce(x.*) AS r, k.vals FROM %s x CROSS JOIN %s) %s';
  counted text := 'row_number() OVER () AS n,';
BEGIN
  RETURN format($s$
  IF TG_OP = 'INSERT' THEN
    %s
  ELSIF TG_OP = 'UPDATE' THEN
    IF NOT EXISTS (SELECT FROM new_rows OFFSET 1) THEN
      %s
    ELSE
      %s
    END IF;
  ELSIF TG_OP = 'DELETE' THEN
    %s
  ELSE
    %s
  END IF;$s$,
    realtime.insert_source(gen, each, '0', '''I''', format('k.vals, NULL::text[], %s, NULL::json FROM new_rows x CROSS JOIN %s', json, vals_of_x)),
    realtime.insert_source(gen, each, '0', '''U''', format('w.vals, o.vals, %s, %s FROM %s CROSS JOIN %s WHERE o.r *<> w.r',
      realtime.json_source(hidden, 'w.r'), realtime.json_source(hidden, 'o.r'),
      format(side, '', 'old_rows', vals_of_x, 'o'), format(side, '', 'new_rows', vals_of_x, 'w'))),
    realtime.insert_source(gen, '(SELECT nextval(''realtime.event_id''))', '(coalesce(w.n, o.n) - 1)',
      'CASE WHEN o.n IS NULL THEN ''I'' WHEN w.n IS NULL THEN ''D'' ELSE ''U'' END', format(
      'w.vals, o.vals, %s, %s FROM %s FULL JOIN %s USING (n) WHERE o.n IS NULL OR w.n IS NULL OR o.r *<> w.r',
      CASE WHEN hidden = '{}' THEN 'row_to_json(w.r)' ELSE 'CASE WHEN w.n IS NOT NULL THEN ' || realtime.json_source(hidden, 'w.r') || ' END' END,
      CASE WHEN hidden = '{}' THEN 'row_to_json(o.r)' ELSE 'CASE WHEN o.n IS NOT NULL THEN ' || realtime.json_source(hidden, 'o.r') || ' END' END,
      format(side, counted, 'old_rows', vals_of_x, 'o'), format(side, counted, 'new_rows', vals_of_x, 'w'))),
    realtime.insert_source(gen, each, '0', '''D''', format('NULL::text[], k.vals, NULL::json, %s FROM old_rows x CROSS JOIN %s', json, vals_of_x)),
    realtime.insert_source(gen, each, '0', '''T''', 'NULL::text[], NULL::text[], NULL::json, NULL::json'));
END $f$;

CREATE OR REPLACE FUNCTION realtime.row_source(rel oid, gen int, vals text[], hidden text[]) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT format($s$
  IF TG_OP = 'UPDATE' AND NOT OLD *<> NEW THEN
    RETURN NULL;
  ELSIF TG_OP = 'TRUNCATE' THEN
    %s
  ELSE
    IF TG_OP <> 'DELETE' THEN
      here.new_json := %s;
      here.new_vals := %s;
    END IF;
    IF TG_OP <> 'INSERT' THEN
      here.old_json := %s;
      here.old_vals := %s;
    END IF;
    %s
  END IF;$s$,
    realtime.insert_source(gen, 'nextval(''realtime.event_id'')', '0', 'TG_ARGV[0]', 'NULL::text[], NULL::text[], NULL::json, NULL::json'),
    realtime.json_source(hidden, 'NEW'), realtime.vals_source(vals, rel, 'r', 'here.new_json'),
    realtime.json_source(hidden, 'OLD'), realtime.vals_source(vals, rel, 'r', 'here.old_json'),
    realtime.insert_source(gen, 'nextval(''realtime.event_id'')', '0', 'left(TG_OP, 1)', 'here.new_vals, here.old_vals, here.new_json, here.old_json'))
$f$;

-- Where tables bear no mark a nested statement still notes the WAL position, to be found among those that do.
CREATE OR REPLACE FUNCTION realtime.place_source() RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT $s$
  IF depth > 1 THEN
    ord := (pg_current_wal_insert_lsn() - '0/0')::bigint;
  END IF;$s$
$f$;

-- Takes the action's letter out of the note (realtime.note_source), whose position is the mark. It was made one level
-- less deep than the trigger is, or on the same one by a cascade, which is a statement nested in a trigger of PostgreSQL's.
CREATE OR REPLACE FUNCTION realtime.mark_source() RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT $s$
  DECLARE
    letter text := lower(left(TG_OP, 1));
    name text := concat(TG_ARGV[0], depth - 1);
    note text := current_setting(name, true);
  BEGIN
    IF strpos(note, letter) > 0 IS NOT TRUE THEN
      name := concat(TG_ARGV[0], depth);
      note := current_setting(name, true);
      depth := depth + (strpos(note, letter) > 0 IS TRUE)::int;
    END IF;
    ord := (coalesce(nullif(split_part(note, ' ', 1), '')::pg_lsn, pg_current_wal_insert_lsn()) - '0/0')::bigint;
    note := replace(note, letter, '');
    PERFORM set_config(name, CASE WHEN right(note, 1) <> ' ' THEN note ELSE '' END, true);
  END;$s$
$f$;

-- The whole function body. The gate: a writer that can't share advisory lock 1 has a parked reader to wake (docs/capture.md).
CREATE OR REPLACE FUNCTION realtime.capture_source(rel oid, gen int, vals text[], hidden text[], level "char", mark bool) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT format($s$#variable_conflict use_column
<<here>>
DECLARE
  ord bigint; depth smallint := pg_trigger_depth();
  new_json json; old_json json; new_vals text[]; old_vals text[];
%s
BEGIN
%s%s%s
  IF FOUND AND NOT pg_try_advisory_xact_lock_shared(1919247220, 1) THEN
    PERFORM pg_notify('realtime', '');
  END IF;
%s  RETURN NULL;
END $s$,
    s.declare, s.pin,
    CASE WHEN mark AND level = 's' THEN realtime.mark_source() ELSE realtime.place_source() END,
    CASE WHEN level = 's' THEN realtime.statement_source(rel, gen, vals, hidden) ELSE realtime.row_source(rel, gen, vals, hidden) END,
    s.unpin)
  FROM (SELECT coalesce(string_agg(format('  saved_%s text;', lower(n)), E'\n'), '') AS declare,
      coalesce(string_agg(format($s$  IF current_setting(%1$L) %2$s THEN
    saved_%3$s := current_setting(%1$L);
    PERFORM set_config(%1$L, %4$L, true);
  END IF;
$s$, n, v.off, lower(n), v.value), ''), '') AS pin,
      coalesce(string_agg(format($s$  IF saved_%2$s IS NOT NULL THEN
    PERFORM set_config(%1$L, saved_%2$s, true);
  END IF;
$s$, n, lower(n)), ''), '') AS unpin
    FROM realtime.settings(rel, vals) n JOIN (VALUES
      ('TimeZone', 'UTC', 'NOT IN (''UTC'', ''Etc/UTC'', ''GMT'')'), ('DateStyle', 'ISO', 'NOT LIKE ''ISO%'''),
      ('IntervalStyle', 'iso_8601', '<> ''iso_8601'''), ('bytea_output', 'hex', '<> ''hex'''),
      ('lc_monetary', 'C', '<> ''C'''), ('extra_float_digits', '1', '::int < 1')) v(setting, value, off) ON v.setting = n) s
$f$;
