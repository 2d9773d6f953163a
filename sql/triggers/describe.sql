-- What a table looks like in the catalog, and the spelling of column names in routes. Run as realtime_owner.
-- These functions only read the catalog; callers pin search_path.

-- One spelling: % , = : . / " and control characters are percent-encoded, nothing else is.
CREATE OR REPLACE FUNCTION realtime.encode_name(name text) RETURNS text LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp AS $f$
  SELECT string_agg(CASE WHEN strpos('%,=:./"', ch) > 0 OR ascii(ch) < 32 OR ascii(ch) = 127
    THEN '%' || upper(lpad(to_hex(ascii(ch)), 2, '0')) ELSE ch END, '' ORDER BY i)
  FROM regexp_split_to_table(name, '') WITH ORDINALITY c(ch, i)
$f$;

CREATE OR REPLACE FUNCTION realtime.decode_name(name text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  IF name = '' OR name ~ '%(?![0-9A-Fa-f]{2})' OR name ~ '%(00|[89A-Fa-f][0-9A-Fa-f])' THEN
    RAISE EXCEPTION 'realtime: "%" is not a column name in channel grammar', name USING ERRCODE = 'invalid_parameter_value',
      HINT = 'Separate columns by commas; percent-encode % , = : . / " and control characters inside a name.';
  END IF;
  RETURN (SELECT string_agg(CASE WHEN m[1] ~ '^%' THEN chr(('x' || substr(m[1], 2))::bit(8)::int) ELSE m[1] END, '' ORDER BY i)
    FROM regexp_matches(name, '%..|[^%]+', 'g') WITH ORDINALITY r(m, i));
END $f$;

CREATE OR REPLACE FUNCTION realtime.route_columns(route text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp AS $f$
  SELECT array_agg(realtime.decode_name(c) ORDER BY i) FROM regexp_split_to_table(route, ',') WITH ORDINALITY t(c, i)
$f$;

CREATE OR REPLACE FUNCTION realtime.route_text(columns text[]) RETURNS text LANGUAGE sql IMMUTABLE STRICT
SET search_path = pg_catalog, pg_temp AS $f$
  SELECT string_agg(realtime.encode_name(c), ',' ORDER BY i) FROM unnest(columns) WITH ORDINALITY t(c, i)
$f$;

CREATE OR REPLACE FUNCTION realtime.base_type(typ oid) RETURNS oid LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $f$
  WITH RECURSIVE t(oid, base) AS (
    SELECT oid, typbasetype FROM pg_type WHERE oid = typ
    UNION ALL SELECT p.oid, p.typbasetype FROM t JOIN pg_type p ON p.oid = t.base)
  SELECT oid FROM t WHERE base = 0
$f$;

-- How a value of the type looks in JSON. 'n' too may be a quoted "NaN" or "Infinity".
CREATE OR REPLACE FUNCTION realtime.json_type(typ oid) RETURNS "char" LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp AS $f$
  SELECT (CASE
    WHEN t.oid = ANY ('{int2,int4,int8,float4,float8,numeric}'::regtype[]) THEN 'n'
    WHEN t.oid = 'bool'::regtype THEN 'b'
    WHEN t.oid = ANY ('{timestamp,timestamptz}'::regtype[]) THEN 't'
    WHEN t.oid = ANY ('{json,jsonb}'::regtype[]) OR t.typtype = 'c' OR t.typcategory = 'A' THEN 'o'
    WHEN EXISTS (SELECT FROM pg_cast WHERE castsource = t.oid AND casttarget = 'json'::regtype AND castmethod = 'f') THEN 'o'
    ELSE 's' END)::"char"
  FROM pg_type t WHERE t.oid = realtime.base_type(typ)
$f$;

-- How a value of the type is spelled, so that two values are equal in SQL if and only if they are spelled alike; null where
-- that can't be said, and then it can be no part of a route. x as its output function has it; b a boolean; p without the
-- blanks that pad it; i with its netmask; n without trailing zeros; f without the sign of zero; v with its units in order.
CREATE OR REPLACE FUNCTION realtime.spelling(typ oid, typmod int, collation_id oid) RETURNS "char" LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $f$
  WITH RECURSIVE d(oid, mod) AS (SELECT typ, typmod
    UNION ALL SELECT p.typbasetype, p.typtypmod FROM d JOIN pg_type p ON p.oid = d.oid AND p.typtype = 'd')
  SELECT (CASE
    WHEN t.oid = ANY ('{text,varchar,bpchar}'::regtype[]) THEN
      CASE WHEN c.collisdeterministic IS NOT FALSE THEN CASE WHEN t.oid = 'bpchar'::regtype THEN 'p' ELSE 'x' END END
    WHEN t.typtype = 'e' OR t.oid = ANY ('{int2,int4,int8,oid,uuid,bytea,date,time,timetz,timestamp,timestamptz,macaddr,macaddr8,bit,varbit,pg_lsn,xid,xid8,cid,tid,name,money,tsvector}'::regtype[] || '"char"'::regtype) THEN 'x'   -- no backslash: it means something else where standard_conforming_strings is off
    WHEN t.oid = 'bool'::regtype THEN 'b'
    WHEN t.oid = ANY ('{inet,cidr}'::regtype[]) THEN 'i'
    WHEN t.oid = ANY ('{float4,float8}'::regtype[]) THEN 'f'
    WHEN t.oid = 'numeric'::regtype THEN CASE WHEN d.mod >= 0 THEN 'x' ELSE 'n' END
    WHEN t.oid = 'interval'::regtype THEN 'v'
    WHEN t.typtype IN ('r', 'm') THEN (SELECT 'x' FROM pg_range r JOIN pg_type s ON s.oid = r.rngsubtype AND s.typtype <> 'd'
      WHERE t.oid IN (r.rngtypid, r.rngmultitypid) AND realtime.spelling(r.rngsubtype, -1, r.rngcollation) = 'x')
    END)::"char"
  FROM d JOIN pg_type t ON t.oid = d.oid AND t.typtype <> 'd' LEFT JOIN pg_collation c ON c.oid = collation_id
$f$;

-- One day is 24 hours and a month 30 days to SQL's equality. One that is too large to be put in order stays as it is.
CREATE OR REPLACE FUNCTION realtime.spelled_interval(value text) RETURNS text LANGUAGE plpgsql STABLE STRICT AS $f$
BEGIN
  RETURN pg_catalog.justify_interval(value::pg_catalog.interval)::pg_catalog.text;
EXCEPTION WHEN OTHERS THEN
  RETURN value;
END $f$;

-- A value in its one spelling, from its text: that of its output function, or of its cast to text. The one place that
-- decides it: capture and `canonical`, and so every channel, go by it.
CREATE OR REPLACE FUNCTION realtime.spelled(how "char", value text) RETURNS text LANGUAGE sql STABLE STRICT AS $f$
  SELECT CASE how
    WHEN 'b' THEN CASE value WHEN 't' THEN 'true' WHEN 'f' THEN 'false' ELSE value END
    WHEN 'p' THEN rtrim(value, ' ')
    WHEN 'i' THEN CASE WHEN strpos(value, '/') > 0 THEN value WHEN strpos(value, ':') > 0 THEN value || '/128' ELSE value || '/32' END
    WHEN 'f' THEN CASE value WHEN '-0' THEN '0' ELSE value END
    WHEN 'n' THEN CASE WHEN strpos(value, '.') > 0 THEN rtrim(rtrim(value, '0'), '.') ELSE value END
    WHEN 'v' THEN realtime.spelled_interval(value)
    ELSE value END
$f$;

-- A value of a watched table's column, given in any form that its type takes, in its one spelling. Raises what the type's
-- own input raises. Nothing of an owner's runs: the checks of a domain only where it is a superuser's.
CREATE OR REPLACE FUNCTION realtime.canonical(gen int, name text, value text) RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO, YMD' SET "IntervalStyle" = 'iso_8601'
SET bytea_output = 'hex' SET extra_float_digits = '1' SET lc_monetary = 'C' AS $f$
#variable_conflict use_column
<<here>>
DECLARE
  a pg_attribute; typ oid; mod int; how "char"; spelt text;
BEGIN
  SELECT b.* INTO a FROM realtime.generations g JOIN pg_attribute b ON b.attrelid = g.relid
    WHERE g.gen = canonical.gen AND b.attname = canonical.name AND NOT b.attisdropped;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no column "%" any more', canonical.name USING ERRCODE = 'undefined_column';
  END IF;
  here.how := realtime.spelling(a.atttypid, a.atttypmod, a.attcollation);
  WITH RECURSIVE d(oid, mod, depth) AS (SELECT a.atttypid, a.atttypmod, 0
    UNION ALL SELECT p.typbasetype, p.typtypmod, d.depth + 1 FROM d JOIN pg_type p ON p.oid = d.oid AND p.typtype = 'd')
  SELECT t.oid, t.mod INTO here.typ, here.mod FROM (SELECT d.*, bool_and(p.typtype <> 'd' OR r.rolsuper IS TRUE) OVER (ORDER BY d.depth DESC) AS trusted
    FROM d JOIN pg_type p ON p.oid = d.oid LEFT JOIN pg_roles r ON r.oid = p.typowner) t WHERE t.trusted ORDER BY t.depth LIMIT 1;
  IF here.how IS NULL THEN
    RAISE EXCEPTION 'values of type % are not told apart by their text', format_type(a.atttypid, a.atttypmod) USING ERRCODE = 'invalid_parameter_value';
  ELSIF EXISTS (SELECT FROM pg_enum e WHERE e.enumtypid = here.typ) THEN   -- without its name, which may not be for this role
    SELECT e.enumlabel INTO here.spelt FROM pg_enum e WHERE e.enumtypid = here.typ AND e.enumlabel = canonical.value;
    IF NOT FOUND THEN
      RAISE EXCEPTION 'invalid input value for enum %: "%"', format_type(here.typ, NULL), canonical.value USING ERRCODE = 'invalid_text_representation';
    END IF;
  ELSE
    EXECUTE format('SELECT format(''%%s'', %L::%s)', canonical.value, format_type(here.typ, here.mod)) INTO here.spelt;
  END IF;
  RETURN realtime.spelled(here.how, here.spelt);
END $f$;

-- The columns of a table that are on the air: all but virtual ones.
CREATE OR REPLACE FUNCTION realtime.shown(rel oid) RETURNS text[] LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT coalesce(array_agg(attname::text ORDER BY attnum), '{}') FROM pg_attribute
  WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v'
$f$;

-- The types beneath a table's columns that others made: what composites are made of, and the labels of enums.
CREATE OR REPLACE FUNCTION realtime.type_traits(rel oid) RETURNS TABLE (composites text, labels text[]) LANGUAGE sql STABLE AS $f$
  WITH RECURSIVE t(oid) AS (
    SELECT atttypid FROM pg_attribute WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped AND atttypid >= 16384 AND attgenerated <> 'v'
    UNION SELECT n.oid FROM t JOIN pg_type p ON p.oid = t.oid CROSS JOIN LATERAL (
      SELECT p.typbasetype WHERE p.typtype = 'd'
      UNION ALL SELECT p.typelem WHERE p.typcategory = 'A'
      UNION ALL SELECT atttypid FROM pg_attribute WHERE p.typtype = 'c' AND attrelid = p.typrelid AND attnum > 0 AND NOT attisdropped
      UNION ALL SELECT rngsubtype FROM pg_range WHERE p.oid IN (rngtypid, rngmultitypid)) n(oid) WHERE n.oid >= 16384)
  SELECT (SELECT string_agg(concat_ws(' ', format_type(t.oid, NULL), a.attnum, a.attname, format_type(a.atttypid, a.atttypmod)), ',' ORDER BY t.oid, a.attnum)
      FROM t JOIN pg_type p ON p.oid = t.oid JOIN pg_attribute a ON a.attrelid = p.typrelid AND a.attnum > 0 AND NOT a.attisdropped WHERE p.typtype = 'c'),
    ARRAY(SELECT format_type(t.oid, NULL) || '.' || e.enumlabel FROM t JOIN pg_enum e ON e.enumtypid = t.oid ORDER BY 1)
$f$;

-- A table and its partitions, of all levels. PostgreSQL's own pg_partition_tree() locks each of them until the transaction ends,
-- and whoever drops a partition meanwhile could form a deadlock with a stronger lock that is asked for later.
CREATE OR REPLACE FUNCTION realtime.tree(rel oid) RETURNS TABLE (relid oid, depth int) LANGUAGE sql STABLE AS $f$
  WITH RECURSIVE t(relid, depth) AS (
    SELECT rel, 0
    UNION ALL SELECT i.inhrelid, t.depth + 1 FROM t JOIN pg_class c ON c.oid = t.relid AND c.relkind = 'p' JOIN pg_inherits i ON i.inhparent = t.relid)
  SELECT t.relid, t.depth FROM t
$f$;

-- Whether triggers of the application or cascades may nest statements in those of the table.
CREATE OR REPLACE FUNCTION realtime.nests(rel oid) RETURNS bool LANGUAGE sql STABLE AS $f$
  SELECT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid WHERE t.tgrelid = rel AND t.tgenabled <> 'D'
    AND CASE WHEN t.tgisinternal THEN f.proname ~ '^RI_FKey_(cascade|setnull|setdefault)_' ELSE f.pronamespace <> 'realtime'::regnamespace END)
$f$;

-- Everything about a table that makes a new generation when it changes, and how the table has to be captured:
-- by row where statement triggers miss changes; with marks where triggers or cascades may nest statements in its own.
CREATE OR REPLACE FUNCTION realtime.describe(rel oid) RETURNS TABLE (schema text, name text, key text[], hidden text[],
  level "char", mark bool, fingerprint text) LANGUAGE sql STABLE AS $f$
  SELECT n.nspname::text, c.relname::text, k.key, a.hidden, l.level,
    realtime.nests(c.oid) OR c.relkind = 'p' AND EXISTS (SELECT FROM realtime.tree(c.oid) p WHERE realtime.nests(p.relid)),
    md5(concat_ws(E'\n', n.nspname, c.relname, a.columns, k.key, y.composites))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN LATERAL (SELECT (CASE WHEN c.relkind = 'p' OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
    THEN 'r' ELSE 's' END)::"char" AS level) l
  CROSS JOIN LATERAL (SELECT coalesce(array_agg(attname::text) FILTER (WHERE attgenerated = 'v'), '{}') AS hidden,
      string_agg(concat_ws(' ', attnum, attname, format_type(atttypid, atttypmod), attgenerated), ',' ORDER BY attnum) AS columns,
      bool_or(atttypid >= 16384) AS others
    FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) a
  LEFT JOIN LATERAL (SELECT array_agg(b.attname::text ORDER BY u.i) AS key
    FROM pg_index x CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY u(num, i)
    JOIN pg_attribute b ON b.attrelid = x.indrelid AND b.attnum = u.num
    WHERE x.indrelid = c.oid AND x.indisprimary AND u.i <= x.indnkeyatts) k ON true
  LEFT JOIN LATERAL (SELECT t.composites FROM realtime.type_traits(c.oid) t WHERE a.others) y ON true
  WHERE c.oid = rel
$f$;

-- A table's name and columns, by which a downgrade tells the table that a migration created from what others made of it.
CREATE OR REPLACE FUNCTION realtime.form(rel oid) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $f$
  SELECT concat(rel::regclass, ' (', string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum), ')')
  FROM pg_attribute WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped
$f$;

-- When a trigger that marks is to fire: always, and it notes how far the WAL is. PostgreSQL evaluates this when the
-- statement has written its rows: after what BEFORE triggers did, and before AFTER triggers fire. The note, one for each
-- table and depth, is the WAL position and the letters of the actions that are still to be captured. Whatever one query did
-- to a table is captured after all its parts have run, so all of it finds the same position.
CREATE OR REPLACE FUNCTION realtime.note_source(note text, op text) RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT format($s$set_config(concat(%1$L, pg_trigger_depth()), concat(pg_current_wal_insert_lsn(), ' ',
    split_part(current_setting(concat(%1$L, pg_trigger_depth()), true), ' ', 2), %2$L), true) IS NOT NULL$s$, note, op)
$f$;

-- The same of a trigger for each row: a note of the WAL position for each table and depth, and beside it for each action how
-- many rows are still to be captured. What a query wrote to a table is captured in the order in which it was written, before
-- what cascades wrote.
CREATE OR REPLACE FUNCTION realtime.row_note_source(note text, op text) RETURNS text LANGUAGE sql IMMUTABLE AS $f$
  SELECT format($s$set_config(concat(%1$L, pg_trigger_depth()), pg_current_wal_insert_lsn()::text, true) IS NOT NULL AND set_config(
    concat(%2$L, pg_trigger_depth()), (concat('0', current_setting(concat(%2$L, pg_trigger_depth()), true))::int + 1)::text, true) IS NOT NULL$s$, note, note || op)
$f$;

-- The functions that capture a table, one for each operation, as far as they are there.
CREATE OR REPLACE FUNCTION realtime.capture_functions(capture text) RETURNS oid[] LANGUAGE sql STABLE AS $f$
  SELECT ARRAY[to_regproc('realtime.' || quote_ident(capture || '_insert')), to_regproc('realtime.' || quote_ident(capture || '_update')),
    to_regproc('realtime.' || quote_ident(capture || '_delete')), to_regproc('realtime.' || quote_ident(capture || '_truncate'))]::oid[]
$f$;

-- The triggers that call them, on whatever table. OFFSET 0: found by the function, whatever the planner takes the catalog for.
CREATE OR REPLACE FUNCTION realtime.capture_triggers(capture text) RETURNS SETOF pg_trigger LANGUAGE sql STABLE AS $f$
  SELECT t.* FROM unnest(realtime.capture_functions(capture)) f CROSS JOIN LATERAL (SELECT d.objid FROM pg_depend d
    WHERE d.classid = 'pg_trigger'::regclass AND d.refclassid = 'pg_proc'::regclass AND d.refobjid = f OFFSET 0) d JOIN pg_trigger t ON t.oid = d.objid
$f$;

-- The triggers that a watched table must bear. `sql` is null for those that PostgreSQL clones to partitions itself.
-- Row-level ones are named to fire before the application's, and numbered: a partition may be watched with its parent.
CREATE OR REPLACE FUNCTION realtime.triggers(rel oid, level "char", mark bool, capture text)
RETURNS TABLE (relid oid, name text, type smallint, marked bool, sql text) LANGUAGE sql STABLE AS $f$
  SELECT rel, v.name, v.type, v.marked, format('CREATE TRIGGER %I %s ON %s %s FOR EACH STATEMENT %s EXECUTE FUNCTION realtime.%I(%s)',
      v.name, v.event, rel::regclass, v.how, CASE WHEN v.marked THEN format('WHEN (%s)', realtime.note_source(n.note, v.op)) END,
      replace(v.name, 'realtime', capture),
      CASE WHEN v.marked THEN format('%L, %L', n.note, v.op) END)
  FROM (VALUES
    ('realtime_insert', 4::smallint, mark, 'AFTER INSERT', 'REFERENCING NEW TABLE AS new_rows', 'i'),
    ('realtime_update', 16::smallint, mark, 'AFTER UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows', 'u'),
    ('realtime_delete', 8::smallint, mark, 'AFTER DELETE', 'REFERENCING OLD TABLE AS old_rows', 'd'),
    ('realtime_truncate', 32::smallint, true, 'AFTER TRUNCATE', '', 't')  -- of other tables with it, where triggers write to this
  ) v(name, type, marked, event, how, op) CROSS JOIN (SELECT format('realtime.%s_', capture) AS note) n WHERE level = 's'
  UNION ALL
  SELECT m.relid, v.name, v.type, v.marked, CASE WHEN m.relid = rel OR v.type = 32 THEN
    format('CREATE TRIGGER %I %s ON %s %s %s EXECUTE FUNCTION realtime.%I(%L)', v.name, v.event, m.relid::regclass, v.how,
      CASE WHEN v.marked THEN format('WHEN (%s)', realtime.row_note_source(format('realtime.%s_', capture), lower(substr(v.event, 7, 1)))) END, v.calls,
      CASE WHEN m.relid = rel THEN 'T' ELSE 'R' END) END
  FROM (VALUES
    ('00_realtime_insert', 5::smallint, 'AFTER INSERT', 'FOR EACH ROW'),
    ('00_realtime_update', 17::smallint, 'AFTER UPDATE', 'FOR EACH ROW'),
    ('00_realtime_delete', 9::smallint, 'AFTER DELETE', 'FOR EACH ROW'),
    ('00_realtime_truncate', 32::smallint, 'AFTER TRUNCATE', 'FOR EACH STATEMENT')
  ) b(name, type, event, how) CROSS JOIN LATERAL
    (SELECT b.name || substr(capture, length('capture') + 1) AS name, replace(b.name, '00_realtime', capture) AS calls, b.type, b.event, b.how, mark AND b.type <> 32 AS marked) v
  CROSS JOIN realtime.tree(rel) m
  WHERE level = 'r'
$f$;
