-- The text of a table's capture function. Run as realtime_owner.
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
-- What runs as realtime_owner is PostgreSQL's own code and ours, never an owner's: a cast to text or json that somebody
-- else made is not used. Where a table has types that others own, rows are rendered by realtime.careful_json(), as
-- realtime_nobody. Whether it has is asked while a query is planned (realtime.plain), and ALTER has it planned anew.
--
-- A capture function works for one table, whose oid is in its text, and its partitions. Called for another one (a table
-- that was restored by name brings its triggers) it writes nothing.

-- What a capture function is made from.
DO $do$ BEGIN
  IF to_regtype('realtime.captured') IS NULL THEN
    CREATE TYPE realtime.captured AS (rel oid, gen int, capture text, key text[], vals text[], hidden text[], level "char", mark bool);
  END IF;
END $do$;

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
      ('extra_float_digits', '{float4,float8,point,line,lseg,box,path,polygon,circle}', false),
      ('quote_all_identifiers', '{regclass,regproc,regprocedure,regoper,regoperator,regtype,regrole,regnamespace,regconfig,regdictionary,regcollation}', false)) s(setting, types, only_text)
  WHERE EXISTS (SELECT FROM b WHERE b.unknown OR b.name = ANY (s.types) AND (b.as_text OR NOT s.only_text))
  ORDER BY 1
$f$;

-- A row beyond this, new or old, goes as its key alone. In bytes of JSON, and of the stored row.
CREATE OR REPLACE FUNCTION realtime.row_bytes() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 67108864';

-- Whether no code but PostgreSQL's own and that of superusers runs when values of these types are rendered. A domain
-- looks as its base type does, so its owner does not matter.
CREATE OR REPLACE FUNCTION realtime.plain_types(types oid[]) RETURNS bool LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  IF 16384 > ALL (types) THEN
    RETURN true;
  END IF;
  RETURN NOT EXISTS (WITH RECURSIVE t(oid) AS (SELECT unnest(types)
    UNION SELECT n.oid FROM t JOIN pg_type p ON p.oid = t.oid AND p.oid >= 16384 CROSS JOIN LATERAL (
      SELECT p.typbasetype WHERE p.typtype = 'd'
      UNION ALL SELECT p.typelem WHERE p.typcategory = 'A'
      UNION ALL SELECT atttypid FROM pg_attribute WHERE p.typtype = 'c' AND attrelid = p.typrelid AND attnum > 0 AND NOT attisdropped
      UNION ALL SELECT rngsubtype FROM pg_range WHERE p.oid IN (rngtypid, rngmultitypid)) n(oid))
    SELECT FROM t JOIN pg_type p ON p.oid = t.oid LEFT JOIN pg_roles r ON r.oid = p.typowner
    WHERE p.oid >= 16384 AND p.typtype <> 'd' AND p.typcategory <> 'A' AND r.rolsuper IS NOT TRUE);
END $f$;

CREATE OR REPLACE FUNCTION realtime.plain_table(rel oid) RETURNS bool LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT realtime.plain_types(ARRAY(SELECT atttypid FROM pg_attribute WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped))
$f$;

-- The same of a captured table, asked while a capture function's query is planned: it says IMMUTABLE to be folded into
-- the plan, which ALTER of the table makes invalid. False where that can't be known: a snapshot older than the
-- statement may not see an ALTER, and in a restored database the oid in the text may be another table's.
CREATE OR REPLACE FUNCTION realtime.plain(rel regclass, capture text) RETURNS bool LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  RETURN current_setting('transaction_isolation') IN ('read committed', 'read uncommitted')
    AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = rel AND t.tgfoid = to_regproc(format('realtime.%I', capture)))
    AND realtime.plain_table(rel);
END $f$;

-- Whether the table's columns still are these, virtual ones left out; in the plan, as `plain`.
CREATE OR REPLACE FUNCTION realtime.listed(rel regclass, columns text[]) RETURNS bool LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  RETURN columns = realtime.shown(rel);
END $f$;

-- A row as JSON, whatever its types; null where it is beyond realtime.row_bytes() or can't be rendered. Owned by
-- realtime_nobody, so what an owner's cast to json does, it does without any right. Only rendered here, nothing written: a
-- subtransaction that writes nothing takes no transaction id.
CREATE OR REPLACE FUNCTION realtime.careful_json(x record) RETURNS json LANGUAGE plpgsql STRICT SECURITY DEFINER AS $f$
DECLARE
  result json;
BEGIN
  result := pg_catalog.row_to_json(x);
  RETURN CASE WHEN pg_catalog.octet_length(result::pg_catalog.text) OPERATOR(pg_catalog.<=) 67108864 THEN result END;
EXCEPTION WHEN OTHERS THEN
  RETURN NULL;
END $f$;
GRANT CREATE ON SCHEMA realtime TO realtime_nobody;
ALTER FUNCTION realtime.careful_json(record) OWNER TO realtime_nobody;
REVOKE CREATE ON SCHEMA realtime FROM realtime_nobody;
REVOKE ALL ON FUNCTION realtime.careful_json(record) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION realtime.careful_json(record) TO realtime_owner, realtime_reader;

-- ARRAY[...] of the columns in their one spelling, or null where there are none. Plain types by their cast to text, others
-- by their output function, which is nobody's. What is longer than a channel's name may be is cut, but in the key.
CREATE OR REPLACE FUNCTION realtime.vals_source(t realtime.captured, plain bool) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT coalesce('ARRAY[' || string_agg(CASE WHEN v.how IS NULL OR v.how = 'x' OR plain AND v.how IN ('b', 'p', 'i') THEN v.text
    ELSE format('realtime.spelled(%L, %s)', v.how, v.text) END, ', ' ORDER BY v.i) || ']::text[]', 'NULL::text[]')
  FROM (SELECT v.i, realtime.spelling(a.atttypid, a.atttypmod, a.attcollation) AS how,
      format(CASE WHEN v.i > coalesce(cardinality(t.key), 0) AND p.typlen < 0 AND a.atttypmod < 0 THEN 'left(%s, 2049)' ELSE '%s' END,
        format(CASE WHEN plain THEN '%1$I::text' ELSE 'CASE WHEN %1$I IS NOT NULL THEN format(''%%s'', %1$I) END' END, v.name)) AS text
    FROM unnest(t.vals) WITH ORDINALITY v(name, i) JOIN pg_attribute a ON a.attrelid = t.rel AND a.attname = v.name
    JOIN pg_type p ON p.oid = a.atttypid) v
$f$;

-- The size of a row's largest column, as it is stored: nothing is fetched or unpacked for it. Of what is larger in JSON by any
-- measure (numerics in arrays, ranges and composites) it is always over 2,000.
CREATE OR REPLACE FUNCTION realtime.size_source(rel oid) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT CASE WHEN count(*) = 0 THEN '0' ELSE format('greatest(%s, %s)', string_agg(format('pg_column_size(%I)', a.attname), ', ' ORDER BY a.attnum),
    CASE WHEN bool_or(t.typtype IN ('r', 'm', 'c') OR t.typcategory = 'A' AND realtime.base_type(t.typelem) = 'numeric'::regtype) THEN 2001 ELSE 0 END) END
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v' AND t.typlen < 0
    AND NOT (a.atttypid = ANY ('{numeric,inet,cidr}'::regtype[]) OR a.atttypid = ANY ('{varchar,bpchar,bit,varbit}'::regtype[]) AND a.atttypmod BETWEEN 0 AND 1000)
$f$;

-- How large a column may be for the row to be put together: all of them then are below the gigabyte that a value may have.
CREATE OR REPLACE FUNCTION realtime.size_limit(rel oid) RETURNS int LANGUAGE sql STABLE AS $f$
  SELECT least(realtime.row_bytes(), 1000000000 / greatest(cardinality(realtime.shown(rel)), 1))
$f$;

-- A row as JSON; null where it is too large or can't be rendered: then its values stand for it.
CREATE OR REPLACE FUNCTION realtime.rendered_source(t realtime.captured, r text, k text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT format('CASE WHEN realtime.plain(%L::regclass, %L) AND %s.size <= 2000 THEN row_to_json(%s) WHEN %3$s.size <= %5$s THEN realtime.careful_json(%4$s) END',
    t.rel, t.capture, k, r, realtime.size_limit(t.rel))
$f$;

-- The JSON of a row `r` that stands beside its vals, size and shown in the FROM item `k`.
CREATE OR REPLACE FUNCTION realtime.json_source(t realtime.captured, r text, k text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT CASE WHEN t.hidden = '{}' THEN whole.source
    ELSE format('CASE WHEN realtime.listed(%L::regclass, %L::text[]) THEN %s ELSE %s END', t.rel, realtime.shown(t.rel), shown.source, whole.source) END
  FROM realtime.rendered_source(t, r, k) whole(source), realtime.rendered_source(t, k || '.shown', k) shown(source)
$f$;

-- INSERT INTO realtime.events ... SELECT. Columns in the table's order, each of its exact type: PostgreSQL then needs no node
-- of its own to convert them. An UPDATE draws one id for all its pairs; elsewhere each row draws its own, which spares
-- a window over the rows. `body` is new_vals, old_vals, new, old and FROM.
CREATE OR REPLACE FUNCTION realtime.insert_source(gen int, id text, n text, op text, body text) RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT format($s$INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
    SELECT realtime.slot(), %s, %s::int, pg_current_xact_id(), %s, %s::"char", here.depth, here.ord, clock_timestamp(),
      %s;$s$, id, n, gen, op, body)
$f$;

-- A FROM item for the row of a source (x.*, say): its vals, its size, and where the table has virtual columns the row
-- without them (shown). LATERAL, so that the row's own columns are nearest, then the nulls, and nothing of ours comes between.
CREATE OR REPLACE FUNCTION realtime.row_item(t realtime.captured, source text, alias text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT format('LATERAL (SELECT v.* FROM (SELECT %s) missing CROSS JOIN LATERAL (SELECT %s AS vals, %s AS size%s FROM (SELECT %s) y) v) %s',
    (SELECT string_agg(format('NULL::text AS %I', c), ', ' ORDER BY c) FROM (SELECT unnest(t.vals) UNION SELECT unnest(realtime.shown(t.rel))) u(c)),
    CASE WHEN t.vals = '{}' THEN 'NULL::text[]' ELSE format('CASE WHEN realtime.plain(%L::regclass, %L) THEN %s ELSE %s END', t.rel, t.capture,
      realtime.vals_source(t, true), realtime.vals_source(t, false)) END,
    z.size,
    CASE WHEN t.hidden = '{}' THEN '' ELSE format(', CASE WHEN %s <= %s THEN (SELECT coalesce(j.*) FROM (SELECT %s) j) END AS shown',
      z.size, realtime.size_limit(t.rel), (SELECT string_agg(quote_ident(c), ', ' ORDER BY i) FROM unnest(realtime.shown(t.rel)) WITH ORDINALITY u(c, i))) END,
    source, alias)
  FROM realtime.size_source(t.rel) z(size)
$f$;

-- An UPDATE of one row goes a short way: two windows and a FULL JOIN cost it a third of what its capture costs. A statement's
-- old and new rows are equal in number wherever statement triggers are used: what moves a row to another partition, and
-- shows one of the two, is caught by row triggers. So one new row has one old row, and is its pair, if neither is large.
-- A row that is too large is never put together, not even to see whether it changed.
CREATE OR REPLACE FUNCTION realtime.statement_source(t realtime.captured) RETURNS text LANGUAGE plpgsql STABLE AS $f$
DECLARE
  each text := 'nextval(''realtime.event_id'')';
  k text := realtime.row_item(t, 'x.*', 'k');
  json text := realtime.json_source(t, 'x.*', 'k');
  new_json text := realtime.json_source(t, 'w.r', 'w');
  old_json text := realtime.json_source(t, 'o.r', 'o');
  -- coalesce(x.*) is the whole row whatever its columns are called
  one text := 'SELECT coalesce(x.*) AS r, k.* FROM';
  many text := format('SELECT row_number() OVER () AS n, CASE WHEN k.size <= %s THEN coalesce(x.*) END AS r, k.* FROM', realtime.size_limit(t.rel));
  small text := format('CASE WHEN realtime.plain(%L::regclass, %L) THEN row_to_json(%%s) ELSE realtime.careful_json(%%1$s) END', t.rel, t.capture);
BEGIN
  RETURN format($s$
  IF TG_OP = 'INSERT' THEN
    %s
  ELSIF TG_OP = 'UPDATE' THEN
    IF NOT EXISTS (SELECT FROM new_rows OFFSET 1)%s THEN
      %s
    ELSE
      %s
    END IF;
  ELSIF TG_OP = 'DELETE' THEN
    %s
  ELSE
    %s
  END IF;$s$,
    realtime.insert_source(t.gen, each, '0', '''I''', format('k.vals, NULL::text[], %s, NULL::json FROM new_rows x CROSS JOIN %s', json, k)),
    CASE WHEN realtime.size_source(t.rel) = '0' THEN '' ELSE format(' AND NOT EXISTS (SELECT FROM new_rows x CROSS JOIN %s WHERE k.size > 2000)'
      ' AND NOT EXISTS (SELECT FROM old_rows x CROSS JOIN %1$s WHERE k.size > 2000)', k) END,
    realtime.insert_source(t.gen, each, '0', '''U''', format(
      'w.vals, o.vals, %s, %s FROM (%s old_rows x CROSS JOIN %s) o CROSS JOIN (%3$s new_rows x CROSS JOIN %4$s) w WHERE o.r *<> w.r',
      CASE WHEN t.hidden = '{}' THEN format(small, 'w.r') ELSE new_json END, CASE WHEN t.hidden = '{}' THEN format(small, 'o.r') ELSE old_json END, one, k)),
    realtime.insert_source(t.gen, '(SELECT nextval(''realtime.event_id''))', '(coalesce(w.n, o.n) - 1)',
      'CASE WHEN o.n IS NULL THEN ''I'' WHEN w.n IS NULL THEN ''D'' ELSE ''U'' END', format(
      'w.vals, o.vals, CASE WHEN w.n IS NOT NULL THEN %s END, CASE WHEN o.n IS NOT NULL THEN %s END
      FROM (%s old_rows x CROSS JOIN %s) o FULL JOIN (%3$s new_rows x CROSS JOIN %4$s) w USING (n)
      WHERE o.n IS NULL OR w.n IS NULL OR (o.r *<> w.r) IS NOT FALSE', new_json, old_json, many, k)),
    realtime.insert_source(t.gen, each, '0', '''D''', format('NULL::text[], k.vals, NULL::json, %s FROM old_rows x CROSS JOIN %s', json, k)),
    realtime.insert_source(t.gen, each, '0', '''T''', 'NULL::text[], NULL::text[], NULL::json, NULL::json'));
END $f$;

CREATE OR REPLACE FUNCTION realtime.row_source(t realtime.captured) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT format($s$
  IF TG_OP = 'INSERT' THEN
    %s
  ELSIF TG_OP = 'UPDATE' THEN
    %s
  ELSIF TG_OP = 'DELETE' THEN
    %s
  ELSE
    %s
  END IF;$s$,
    realtime.insert_source(t.gen, e.each, '0', '''I''', format('w.vals, NULL::text[], %s, NULL::json FROM %s', e.new_json, e.w)),
    realtime.insert_source(t.gen, e.each, '0', '''U''', format('w.vals, o.vals, %s, %s FROM %s CROSS JOIN %s WHERE CASE WHEN greatest(o.size, w.size) <= %s THEN OLD *<> NEW ELSE true END',
      e.new_json, e.old_json, e.w, e.o, realtime.size_limit(t.rel))),
    realtime.insert_source(t.gen, e.each, '0', '''D''', format('NULL::text[], o.vals, NULL::json, %s FROM %s', e.old_json, e.o)),
    realtime.insert_source(t.gen, e.each, '0', 'TG_ARGV[0]', 'NULL::text[], NULL::text[], NULL::json, NULL::json'))
  FROM (SELECT 'nextval(''realtime.event_id'')' AS each, realtime.json_source(t, 'NEW', 'w') AS new_json, realtime.json_source(t, 'OLD', 'o') AS old_json,
    realtime.row_item(t, 'NEW.*', 'w') AS w, realtime.row_item(t, 'OLD.*', 'o') AS o) e
$f$;

-- Where the trigger bears no mark a nested statement still notes the WAL position, to be found among those that do.
CREATE OR REPLACE FUNCTION realtime.place_source() RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT $s$
  IF depth > 1 AND ord IS NULL THEN
    ord := (pg_current_wal_insert_lsn() - '0/0')::bigint;
  END IF;$s$
$f$;

-- Takes the action's letter out of the note (realtime.note_source), whose position is the mark. It was made one level
-- less deep than the trigger is. On the trigger's own level a cascade made it, which is a statement nested in a trigger of
-- PostgreSQL's; where its rows come together with those of the query that it belongs to, all count as the query's.
CREATE OR REPLACE FUNCTION realtime.mark_source() RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT $s$
  IF TG_NARGS > 0 THEN
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

-- The whole function body. The gate: a writer that can't share advisory lock 1 has a parked reader to wake (docs/capture.md).
CREATE OR REPLACE FUNCTION realtime.capture_source(t realtime.captured) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT format($s$#variable_conflict use_column
<<here>>
DECLARE
  ord bigint; depth smallint := pg_trigger_depth(); note text;
%s
BEGIN
  IF TG_RELID <> '%s'::oid%s AND NOT realtime.owns(%s, TG_RELID) THEN
    RETURN NULL;
  END IF;
%s%s%s
  IF FOUND AND NOT pg_try_advisory_xact_lock_shared(1919247220, 1) THEN
    PERFORM pg_notify('realtime', '');
  END IF;
%s  RETURN NULL;
END $s$,
    s.declare, t.rel, CASE WHEN t.level = 'r' THEN format(' AND pg_partition_root(TG_RELID) IS DISTINCT FROM ''%s''', t.rel) ELSE '' END, t.gen, s.pin,
    CASE WHEN t.level = 's' THEN realtime.mark_source() ELSE '' END || realtime.place_source(),
    CASE WHEN t.level = 's' THEN realtime.statement_source(t) ELSE realtime.row_source(t) END,
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
    FROM realtime.settings(t.rel, t.vals) n JOIN (VALUES
      ('TimeZone', 'UTC', 'NOT IN (''UTC'', ''Etc/UTC'', ''GMT'')'), ('DateStyle', 'ISO', 'NOT LIKE ''ISO%'''),
      ('IntervalStyle', 'iso_8601', '<> ''iso_8601'''), ('bytea_output', 'hex', '<> ''hex'''),
      ('lc_monetary', 'C', '<> ''C'''), ('quote_all_identifiers', 'off', '<> ''off'''), ('extra_float_digits', '1', '::int < 1')) v(setting, value, off) ON v.setting = n) s
$f$;
