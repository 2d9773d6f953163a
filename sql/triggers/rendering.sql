-- How a captured row is rendered: its JSON, and its values in their one spelling. Run as realtime_owner.
--
-- What runs as realtime_owner is PostgreSQL's own code and ours, never an owner's: a cast to text or json that somebody
-- else made is not used. Where a table has types that others own, rows are rendered by realtime.careful_json(), as
-- realtime_nobody. Whether it has is asked while a query is planned (realtime.plain), and ALTER has it planned anew.

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
    AND EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = rel AND t.tgfoid = ANY (realtime.capture_functions(capture)))
    AND realtime.plain_table(rel);
END $f$;

-- Whether the table's columns still are these, virtual ones left out; in the plan, as `plain`.
CREATE OR REPLACE FUNCTION realtime.listed(rel regclass, columns text[]) RETURNS bool LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  RETURN columns = realtime.shown(rel);
END $f$;

-- A row as JSON, whatever its types; null where it is beyond realtime.row_bytes() or can't be rendered. Owned by
-- realtime_nobody, so what an owner's cast to json does, it does without any right. Nothing of it lasts: a search_path or a temporary
-- table that it leaves behind would be met by whoever called this, with that one's rights. So the subtransaction always ends by an
-- error, and takes both back; one that writes nothing takes no transaction id.
CREATE OR REPLACE FUNCTION realtime.careful_json(x record) RETURNS json LANGUAGE plpgsql STRICT SECURITY DEFINER AS $f$
DECLARE
  result json;
BEGIN
  result := pg_catalog.row_to_json(x);
  RAISE SQLSTATE 'RT001';
EXCEPTION
  WHEN SQLSTATE 'RT001' THEN
    RETURN CASE WHEN pg_catalog.octet_length(result::pg_catalog.text) OPERATOR(pg_catalog.<=) 67108864 THEN result END;
  WHEN OTHERS OR assert_failure THEN
    RETURN NULL;
END $f$;
GRANT CREATE ON SCHEMA realtime TO realtime_nobody;
ALTER FUNCTION realtime.careful_json(record) OWNER TO realtime_nobody;
REVOKE CREATE ON SCHEMA realtime FROM realtime_nobody;
REVOKE ALL ON FUNCTION realtime.careful_json(record) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION realtime.careful_json(record) TO realtime_owner, realtime_reader;

-- A value's text by its output function, which is nobody's. Planned into the query, so it is there once for all that ask.
CREATE OR REPLACE FUNCTION realtime.output(value anyelement) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT CASE WHEN value IS NOT NULL THEN format('%s', value) END
$f$;

-- ARRAY[...] of the columns in their one spelling, or null where there are none. Plain types by their cast to text, others
-- by their output function. What is longer than a channel's name may be is cut, but in the key.
CREATE OR REPLACE FUNCTION realtime.vals_source(t realtime.captured, plain bool) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT coalesce('ARRAY[' || string_agg(CASE WHEN v.how IS NULL OR v.how = 'x' OR plain AND v.how IN ('b', 'p', 'i') THEN v.text
    ELSE format('realtime.spelled(%L, %s)', v.how, v.text) END, ', ' ORDER BY v.i) || ']', 'NULL::text[]')
  FROM (SELECT v.i, realtime.spelling(a.atttypid, a.atttypmod, a.attcollation) AS how,
      format(CASE WHEN v.i > coalesce(cardinality(t.key), 0) AND p.typlen < 0 AND a.atttypmod < 0 THEN 'left(%s, 2049)' ELSE '%s' END,
        format(CASE WHEN plain THEN '%I::text' ELSE 'realtime.output(%I)' END, v.name)) AS text
    FROM unnest(t.vals) WITH ORDINALITY v(name, i) JOIN pg_attribute a ON a.attrelid = t.rel AND a.attname = v.name
    JOIN pg_type p ON p.oid = a.atttypid) v
$f$;

-- The columns whose size tells how large the row is; `packed`: in JSON it may be far larger than it is stored.
CREATE OR REPLACE FUNCTION realtime.sized(rel oid) RETURNS TABLE (name text, num int2, packed bool) LANGUAGE sql STABLE AS $f$
  SELECT a.attname::text, a.attnum, t.typtype IN ('r', 'm', 'c') OR t.typcategory = 'A' AND realtime.base_type(t.typelem) = 'numeric'::regtype
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v' AND t.typlen < 0
    AND NOT (a.atttypid = ANY ('{numeric,inet,cidr}'::regtype[]) OR a.atttypid = ANY ('{varchar,bpchar,bit,varbit}'::regtype[]) AND a.atttypmod BETWEEN 0 AND 1000)
$f$;

-- The size of a row's largest column, as it is stored: nothing is fetched or unpacked for it. Of what is larger in JSON by any
-- measure (numerics in arrays, ranges and composites) it is always over 2,000.
CREATE OR REPLACE FUNCTION realtime.size_source(rel oid) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT CASE WHEN count(*) = 0 THEN '0' ELSE format('greatest(%s, %s)', string_agg(format('pg_column_size(%I)', z.name), ', ' ORDER BY z.num),
    CASE WHEN bool_or(z.packed) THEN 2001 ELSE 0 END) END
  FROM realtime.sized(rel) z
$f$;

-- How large a column may be for the row to be put together: all of them then are below the gigabyte that a value may have.
CREATE OR REPLACE FUNCTION realtime.size_limit(rel oid) RETURNS int LANGUAGE sql STABLE AS $f$
  SELECT least(realtime.row_bytes(), 1000000000 / greatest(cardinality(realtime.shown(rel)), 1))
$f$;

-- A name for a column of ours that no column of the table bears.
CREATE OR REPLACE FUNCTION realtime.own(t realtime.captured, name text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT u.free FROM (SELECT i, name || coalesce(nullif(i, 0)::text, '') AS free FROM generate_series(0, 1600) i) u
  WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.rel AND a.attname = u.free) ORDER BY u.i LIMIT 1
$f$;

-- A row as JSON; null where it is too large or can't be rendered: then its values stand for it.
CREATE OR REPLACE FUNCTION realtime.rendered_source(t realtime.captured, r text, k text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT format('CASE WHEN realtime.plain(%L::regclass, %L) AND %s.%s <= 2000 THEN row_to_json(%s) WHEN %3$s.%4$s <= %6$s THEN realtime.careful_json(%5$s) END',
    t.rel, t.capture, k, realtime.own(t, 'size'), r, realtime.size_limit(t.rel))
$f$;

-- The JSON of a row `r` that stands beside its vals, size and shown in the FROM item `k`.
CREATE OR REPLACE FUNCTION realtime.json_source(t realtime.captured, r text, k text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT CASE WHEN t.hidden = '{}' THEN whole.source
    ELSE format('CASE WHEN realtime.listed(%L::regclass, %L::text[]) THEN %s ELSE %s END', t.rel, realtime.shown(t.rel), shown.source, whole.source) END
  FROM realtime.rendered_source(t, r, k) whole(source),
    realtime.rendered_source(t, format('%s.%s', k, realtime.own(t, 'shown')), k) shown(source)
$f$;

-- The FROM item `m` of nulls, to be left of the items of rows: what a column is that is no longer there.
CREATE OR REPLACE FUNCTION realtime.missing_item(t realtime.captured) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT format('(SELECT %s) m', string_agg(format('NULL AS %I', c), ', ' ORDER BY c)) FROM (SELECT unnest(t.vals)
    UNION SELECT s.name FROM realtime.sized(t.rel) s UNION SELECT unnest(realtime.shown(t.rel)) WHERE t.hidden <> '{}') u(c)
$f$;

-- A FROM item for the row x of a source: its vals, its size, where the table has virtual columns the row without them (shown),
-- and what is to stand before. LATERAL, so that the row's own columns are nearest and then the nulls: what else stands left
-- of it has only columns that are named by realtime.own().
CREATE OR REPLACE FUNCTION realtime.row_item(t realtime.captured, before text, source text, alias text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT format('LATERAL (SELECT %s%s%s AS %s%s FROM %s) %s', before,
    CASE WHEN t.vals <> '{}' THEN format('CASE WHEN realtime.plain(%L::regclass, %L) THEN %s ELSE %s END AS %s, ', t.rel, t.capture,
      realtime.vals_source(t, true), realtime.vals_source(t, false), realtime.own(t, 'vals')) ELSE '' END,
    z.size, realtime.own(t, 'size'),
    CASE WHEN t.hidden = '{}' THEN '' ELSE format(', CASE WHEN %s <= %s THEN (SELECT coalesce(j.*) FROM (SELECT %s) j) END AS %s',
      z.size, realtime.size_limit(t.rel), (SELECT string_agg(quote_ident(c), ', ' ORDER BY i) FROM unnest(realtime.shown(t.rel)) WITH ORDINALITY u(c, i)),
      realtime.own(t, 'shown')) END,
    source, alias)
  FROM realtime.size_source(t.rel) z(size)
$f$;

-- The vals of such an item.
CREATE OR REPLACE FUNCTION realtime.vals_of(t realtime.captured, k text) RETURNS text LANGUAGE sql STABLE AS $f$
  SELECT CASE WHEN t.vals = '{}' THEN 'NULL::text[]' ELSE format('%s.%s', k, realtime.own(t, 'vals')) END
$f$;
