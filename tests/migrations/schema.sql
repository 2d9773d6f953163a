CREATE SCHEMA public;

COMMENT ON SCHEMA public IS 'standard public schema';

CREATE SCHEMA realtime;

COMMENT ON SCHEMA realtime IS 'Sobranie Realtime';

CREATE FUNCTION realtime.announce(gen integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
  INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, at)
    SELECT realtime.slot(), nextval('realtime.event_id'), 0, pg_current_xact_id(), announce.gen, 'G', 0, clock_timestamp();
  IF NOT pg_try_advisory_xact_lock_shared(1919247220, 1) THEN
    PERFORM pg_notify('realtime', '');
  END IF;
END $$;

CREATE FUNCTION realtime.base_type(typ oid) RETURNS oid
    LANGUAGE sql STABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  WITH RECURSIVE t(oid, base) AS (
    SELECT oid, typbasetype FROM pg_type WHERE oid = typ
    UNION ALL SELECT p.oid, p.typbasetype FROM t JOIN pg_type p ON p.oid = t.base)
  SELECT oid FROM t WHERE base = 0
$$;

CREATE FUNCTION realtime.begin_generation(rel oid, routes text[], level "char", mark boolean, previous integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
<<here>>
DECLARE
  d record;
  vals text[];
  gen int := (SELECT coalesce(max(g.gen), 0) + 1 FROM realtime.generations g);
  capture text := coalesce((SELECT g.capture FROM realtime.generations g WHERE g.gen = previous), 'capture_' || here.gen);
BEGIN
  SELECT * INTO d FROM realtime.describe(rel);
  here.vals := coalesce(d.key, '{}') || ARRAY(SELECT c FROM unnest(begin_generation.routes) WITH ORDINALITY r(route, i)
    CROSS JOIN LATERAL unnest(realtime.route_columns(r.route)) WITH ORDINALITY u(c, j)
    WHERE c <> ALL (coalesce(d.key, '{}')) GROUP BY c ORDER BY min(i), min(j));
  EXECUTE format('CREATE OR REPLACE FUNCTION realtime.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L',
    here.capture, realtime.capture_source(rel, here.gen, here.vals, d.hidden, begin_generation.level, begin_generation.mark));
  EXECUTE format('REVOKE ALL ON FUNCTION realtime.%I() FROM PUBLIC', here.capture);
  UPDATE realtime.generations g SET ended = true WHERE g.capture = here.capture AND NOT g.ended;
  INSERT INTO realtime.generations (gen, relid, schema, name, key, routes, vals, types, json_types, level, mark, capture, fingerprint)
    SELECT here.gen, rel, d.schema, d.name, d.key, begin_generation.routes, here.vals,
      ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM unnest(here.vals) WITH ORDINALITY v(c, i)
        JOIN pg_attribute a ON a.attrelid = rel AND a.attname = c ORDER BY i),
      ARRAY(SELECT realtime.json_type(a.atttypid) FROM unnest(here.vals) WITH ORDINALITY v(c, i)
        JOIN pg_attribute a ON a.attrelid = rel AND a.attname = c ORDER BY i),
      begin_generation.level, begin_generation.mark, here.capture, d.fingerprint;
  PERFORM realtime.announce(here.gen);
  RETURN here.gen;
END $$;

CREATE FUNCTION realtime.capture_1() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$#variable_conflict use_column
<<here>>
DECLARE
  ord bigint; mark text; name text;
  new_json json; old_json json; new_vals text[]; old_vals text[];
  saved_timezone text;
BEGIN
  IF current_setting('TimeZone') NOT IN ('UTC', 'Etc/UTC', 'GMT') THEN
    saved_timezone := current_setting('TimeZone');
    PERFORM set_config('TimeZone', 'UTC', true);
  END IF;

  IF TG_OP = 'INSERT' THEN
    INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
    SELECT realtime.slot(), nextval('realtime.event_id'), 0::int, pg_current_xact_id(), 1, 'I'::"char", pg_trigger_depth()::smallint, NULL::bigint, clock_timestamp(),
      k.vals, NULL::text[], row_to_json(x.*), NULL::json FROM new_rows x CROSS JOIN LATERAL (SELECT v.vals FROM (SELECT NULL::text AS id, NULL::text AS author_id) missing CROSS JOIN LATERAL (SELECT ARRAY[id::text, author_id::text]::text[] AS vals FROM (SELECT x.*) y) v) k;
  ELSIF TG_OP = 'UPDATE' THEN
    IF NOT EXISTS (SELECT FROM new_rows OFFSET 1) THEN
      INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
    SELECT realtime.slot(), nextval('realtime.event_id'), 0::int, pg_current_xact_id(), 1, 'U'::"char", pg_trigger_depth()::smallint, NULL::bigint, clock_timestamp(),
      w.vals, o.vals, row_to_json(w.r), row_to_json(o.r) FROM (SELECT  coalesce(x.*) AS r, k.vals FROM old_rows x CROSS JOIN LATERAL (SELECT v.vals FROM (SELECT NULL::text AS id, NULL::text AS author_id) missing CROSS JOIN LATERAL (SELECT ARRAY[id::text, author_id::text]::text[] AS vals FROM (SELECT x.*) y) v) k) o CROSS JOIN (SELECT  coalesce(x.*) AS r, k.vals FROM new_rows x CROSS JOIN LATERAL (SELECT v.vals FROM (SELECT NULL::text AS id, NULL::text AS author_id) missing CROSS JOIN LATERAL (SELECT ARRAY[id::text, author_id::text]::text[] AS vals FROM (SELECT x.*) y) v) k) w WHERE o.r *<> w.r;
    ELSE
      INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
    SELECT realtime.slot(), (SELECT nextval('realtime.event_id')), (coalesce(w.n, o.n) - 1)::int, pg_current_xact_id(), 1, CASE WHEN o.n IS NULL THEN 'I' WHEN w.n IS NULL THEN 'D' ELSE 'U' END::"char", pg_trigger_depth()::smallint, NULL::bigint, clock_timestamp(),
      w.vals, o.vals, row_to_json(w.r), row_to_json(o.r) FROM (SELECT row_number() OVER () AS n, coalesce(x.*) AS r, k.vals FROM old_rows x CROSS JOIN LATERAL (SELECT v.vals FROM (SELECT NULL::text AS id, NULL::text AS author_id) missing CROSS JOIN LATERAL (SELECT ARRAY[id::text, author_id::text]::text[] AS vals FROM (SELECT x.*) y) v) k) o FULL JOIN (SELECT row_number() OVER () AS n, coalesce(x.*) AS r, k.vals FROM new_rows x CROSS JOIN LATERAL (SELECT v.vals FROM (SELECT NULL::text AS id, NULL::text AS author_id) missing CROSS JOIN LATERAL (SELECT ARRAY[id::text, author_id::text]::text[] AS vals FROM (SELECT x.*) y) v) k) w USING (n) WHERE o.n IS NULL OR w.n IS NULL OR o.r *<> w.r;
    END IF;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
    SELECT realtime.slot(), nextval('realtime.event_id'), 0::int, pg_current_xact_id(), 1, 'D'::"char", pg_trigger_depth()::smallint, NULL::bigint, clock_timestamp(),
      NULL::text[], k.vals, NULL::json, row_to_json(x.*) FROM old_rows x CROSS JOIN LATERAL (SELECT v.vals FROM (SELECT NULL::text AS id, NULL::text AS author_id) missing CROSS JOIN LATERAL (SELECT ARRAY[id::text, author_id::text]::text[] AS vals FROM (SELECT x.*) y) v) k;
  ELSE
    INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
    SELECT realtime.slot(), nextval('realtime.event_id'), 0::int, pg_current_xact_id(), 1, 'T'::"char", pg_trigger_depth()::smallint, NULL::bigint, clock_timestamp(),
      NULL::text[], NULL::text[], NULL::json, NULL::json;
  END IF;
  IF FOUND AND NOT pg_try_advisory_xact_lock_shared(1919247220, 1) THEN
    PERFORM pg_notify('realtime', '');
  END IF;
  IF saved_timezone IS NOT NULL THEN
    PERFORM set_config('TimeZone', saved_timezone, true);
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION realtime.capture_2() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$#variable_conflict use_column
<<here>>
DECLARE
  ord bigint; mark text; name text;
  new_json json; old_json json; new_vals text[]; old_vals text[];
  saved_timezone text;
BEGIN
  IF current_setting('TimeZone') NOT IN ('UTC', 'Etc/UTC', 'GMT') THEN
    saved_timezone := current_setting('TimeZone');
    PERFORM set_config('TimeZone', 'UTC', true);
  END IF;

  IF TG_OP = 'INSERT' THEN
    INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
    SELECT realtime.slot(), nextval('realtime.event_id'), 0::int, pg_current_xact_id(), 2, 'I'::"char", pg_trigger_depth()::smallint, NULL::bigint, clock_timestamp(),
      k.vals, NULL::text[], row_to_json(x.*), NULL::json FROM new_rows x CROSS JOIN LATERAL (SELECT v.vals FROM (SELECT NULL::text AS id, NULL::text AS user_id) missing CROSS JOIN LATERAL (SELECT ARRAY[id::text, user_id::text]::text[] AS vals FROM (SELECT x.*) y) v) k;
  ELSIF TG_OP = 'UPDATE' THEN
    IF NOT EXISTS (SELECT FROM new_rows OFFSET 1) THEN
      INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
    SELECT realtime.slot(), nextval('realtime.event_id'), 0::int, pg_current_xact_id(), 2, 'U'::"char", pg_trigger_depth()::smallint, NULL::bigint, clock_timestamp(),
      w.vals, o.vals, row_to_json(w.r), row_to_json(o.r) FROM (SELECT  coalesce(x.*) AS r, k.vals FROM old_rows x CROSS JOIN LATERAL (SELECT v.vals FROM (SELECT NULL::text AS id, NULL::text AS user_id) missing CROSS JOIN LATERAL (SELECT ARRAY[id::text, user_id::text]::text[] AS vals FROM (SELECT x.*) y) v) k) o CROSS JOIN (SELECT  coalesce(x.*) AS r, k.vals FROM new_rows x CROSS JOIN LATERAL (SELECT v.vals FROM (SELECT NULL::text AS id, NULL::text AS user_id) missing CROSS JOIN LATERAL (SELECT ARRAY[id::text, user_id::text]::text[] AS vals FROM (SELECT x.*) y) v) k) w WHERE o.r *<> w.r;
    ELSE
      INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
    SELECT realtime.slot(), (SELECT nextval('realtime.event_id')), (coalesce(w.n, o.n) - 1)::int, pg_current_xact_id(), 2, CASE WHEN o.n IS NULL THEN 'I' WHEN w.n IS NULL THEN 'D' ELSE 'U' END::"char", pg_trigger_depth()::smallint, NULL::bigint, clock_timestamp(),
      w.vals, o.vals, row_to_json(w.r), row_to_json(o.r) FROM (SELECT row_number() OVER () AS n, coalesce(x.*) AS r, k.vals FROM old_rows x CROSS JOIN LATERAL (SELECT v.vals FROM (SELECT NULL::text AS id, NULL::text AS user_id) missing CROSS JOIN LATERAL (SELECT ARRAY[id::text, user_id::text]::text[] AS vals FROM (SELECT x.*) y) v) k) o FULL JOIN (SELECT row_number() OVER () AS n, coalesce(x.*) AS r, k.vals FROM new_rows x CROSS JOIN LATERAL (SELECT v.vals FROM (SELECT NULL::text AS id, NULL::text AS user_id) missing CROSS JOIN LATERAL (SELECT ARRAY[id::text, user_id::text]::text[] AS vals FROM (SELECT x.*) y) v) k) w USING (n) WHERE o.n IS NULL OR w.n IS NULL OR o.r *<> w.r;
    END IF;
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
    SELECT realtime.slot(), nextval('realtime.event_id'), 0::int, pg_current_xact_id(), 2, 'D'::"char", pg_trigger_depth()::smallint, NULL::bigint, clock_timestamp(),
      NULL::text[], k.vals, NULL::json, row_to_json(x.*) FROM old_rows x CROSS JOIN LATERAL (SELECT v.vals FROM (SELECT NULL::text AS id, NULL::text AS user_id) missing CROSS JOIN LATERAL (SELECT ARRAY[id::text, user_id::text]::text[] AS vals FROM (SELECT x.*) y) v) k;
  ELSE
    INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
    SELECT realtime.slot(), nextval('realtime.event_id'), 0::int, pg_current_xact_id(), 2, 'T'::"char", pg_trigger_depth()::smallint, NULL::bigint, clock_timestamp(),
      NULL::text[], NULL::text[], NULL::json, NULL::json;
  END IF;
  IF FOUND AND NOT pg_try_advisory_xact_lock_shared(1919247220, 1) THEN
    PERFORM pg_notify('realtime', '');
  END IF;
  IF saved_timezone IS NOT NULL THEN
    PERFORM set_config('TimeZone', saved_timezone, true);
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION realtime.capture_source(rel oid, gen integer, vals text[], hidden text[], level "char", mark boolean) RETURNS text
    LANGUAGE sql STABLE
    AS $_$
  SELECT format($s$#variable_conflict use_column
<<here>>
DECLARE
  ord bigint; mark text; name text;
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
    CASE WHEN mark AND level = 's' THEN $s$
  name := concat('realtime.mark_', TG_RELID, '_', TG_OP);
  mark := current_setting(name, true);
  ord := (coalesce(nullif(split_part(mark, ' ', -1), '')::pg_lsn, pg_current_wal_insert_lsn()) - '0/0'::pg_lsn)::bigint;
  IF pg_trigger_depth() > 1 THEN
    PERFORM set_config(name, left(mark, -length(split_part(mark, ' ', -1)) - 1), true);
  END IF;$s$ ELSE '' END,
    CASE WHEN level = 's' THEN realtime.statement_source(rel, gen, vals, hidden, mark) ELSE realtime.row_source(rel, gen, vals, hidden) END,
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
$_$;

CREATE FUNCTION realtime."check"() RETURNS TABLE(gen integer, schema text, name text, problem text, remedy text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
  o record;
BEGIN
  IF NOT pg_try_advisory_xact_lock(1919247220, 3) THEN
    RETURN;
  END IF;
  FOR o IN SELECT g.*, l.rel, d.fingerprint AS found FROM realtime.located() l JOIN realtime.generations g ON g.gen = l.gen
    LEFT JOIN LATERAL realtime.describe(l.rel) d ON true
    WHERE d.fingerprint IS DISTINCT FROM g.fingerprint OR l.rel <> g.relid ORDER BY g.gen
  LOOP
    IF o.found IS NULL THEN
      PERFORM realtime.end_generation(o.gen);
    ELSE
      PERFORM realtime.begin_generation(o.rel, ARRAY(SELECT r FROM unnest(o.routes) WITH ORDINALITY u(r, i)
        WHERE realtime.still_route(o.rel, r) ORDER BY i), o.level, o.mark, o.gen);
    END IF;
  END LOOP;
  RETURN QUERY SELECT g.gen, g.schema, g.name, p.problem,
      format('SELECT realtime.watch(%L, routes => %L)', g.relid::regclass, g.routes)
    FROM realtime.generations g CROSS JOIN LATERAL realtime.describe(g.relid) d CROSS JOIN LATERAL (
      SELECT 'changes are captured by ' || CASE g.level WHEN 's' THEN 'statement' ELSE 'row' END || ', and now have to be by ' ||
        CASE d.level WHEN 's' THEN 'statement' ELSE 'row' END WHERE d.level <> g.level AND d.level = 'r'
      UNION ALL SELECT 'a trigger or a cascading foreign key was added: the order of nested changes needs a mark' WHERE d.mark AND NOT g.mark
      UNION ALL SELECT CASE WHEN c.relpersistence = 'u' THEN 'the table became unlogged' ELSE 'other tables inherit from it' END
        FROM pg_class c WHERE c.oid = g.relid AND (c.relpersistence = 'u'
          OR c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid))
      UNION ALL SELECT format('trigger %I on %s %s', t.name, t.relid::regclass, t.problem)
        FROM realtime.wrong_triggers(g.relid, g.level, g.mark, g.capture) t) p(problem)
    WHERE NOT g.ended ORDER BY g.gen, p.problem;
END $$;

CREATE FUNCTION realtime.contains(s pg_snapshot, f pg_snapshot) RETURNS boolean
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  SELECT pg_snapshot_xmax(f) <= pg_snapshot_xmax(s) AND NOT EXISTS (SELECT FROM pg_snapshot_xip(s) x
    WHERE x < pg_snapshot_xmax(f) AND x NOT IN (SELECT pg_snapshot_xip(f)))
$$;

CREATE FUNCTION realtime.decode_name(name text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
  IF name = '' OR name ~ '%(?![0-9A-Fa-f]{2})' OR name ~ '%(00|[89A-Fa-f][0-9A-Fa-f])' THEN
    RAISE EXCEPTION 'realtime: "%" is not a column name in channel grammar', name USING ERRCODE = 'invalid_parameter_value',
      HINT = 'Separate columns by commas; percent-encode % , = : . / " and control characters inside a name.';
  END IF;
  RETURN (SELECT string_agg(CASE WHEN m[1] ~ '^%' THEN chr(('x' || substr(m[1], 2))::bit(8)::int) ELSE m[1] END, '' ORDER BY i)
    FROM regexp_matches(name, '%..|[^%]+', 'g') WITH ORDINALITY r(m, i));
END $$;

CREATE FUNCTION realtime.describe(rel oid) RETURNS TABLE(schema text, name text, key text[], hidden text[], level "char", mark boolean, fingerprint text)
    LANGUAGE sql STABLE
    AS $$
  SELECT n.nspname::text, c.relname::text, k.key, a.hidden, l.level,
    l.level = 's' AND EXISTS (SELECT FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid
      WHERE t.tgrelid = c.oid AND t.tgenabled <> 'D' AND CASE WHEN t.tgisinternal
        THEN f.proname ~ '^RI_FKey_(cascade|setnull|setdefault)_' ELSE f.pronamespace <> n2.oid END),
    md5(concat_ws(E'\n', n.nspname, c.relname, a.columns, k.key, p.partitions))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_namespace n2 ON n2.nspname = 'realtime'
  CROSS JOIN LATERAL (SELECT (CASE WHEN c.relkind = 'p' OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
    THEN 'r' ELSE 's' END)::"char" AS level) l
  CROSS JOIN LATERAL (SELECT coalesce(array_agg(attname::text) FILTER (WHERE attgenerated = 'v'), '{}') AS hidden,
      string_agg(concat_ws(' ', attnum, attname, format_type(atttypid, atttypmod), attgenerated), ',' ORDER BY attnum) AS columns
    FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) a
  LEFT JOIN LATERAL (SELECT array_agg(b.attname::text ORDER BY u.i) AS key
    FROM pg_index x CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY u(num, i)
    JOIN pg_attribute b ON b.attrelid = x.indrelid AND b.attnum = u.num
    WHERE x.indrelid = c.oid AND x.indisprimary AND u.i <= x.indnkeyatts) k ON true
  LEFT JOIN LATERAL (SELECT string_agg(t.relid::oid::text, ',' ORDER BY t.relid::oid) AS partitions
    FROM pg_partition_tree(c.oid) t WHERE c.relkind = 'p') p ON true
  WHERE c.oid = rel
$$;

CREATE FUNCTION realtime.drop_triggers(rel oid, capture text) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
  o record;
BEGIN
  FOR o IN SELECT t.tgname, t.tgrelid::regclass AS on_table FROM pg_depend d JOIN pg_trigger t ON t.oid = d.objid
    WHERE d.classid = 'pg_trigger'::regclass AND d.refclassid = 'pg_proc'::regclass AND t.tgparentid = 0
      AND (d.refobjid = to_regproc(format('realtime.%I', capture)) OR d.refobjid = 'realtime.mark'::regproc AND t.tgrelid = rel)
  LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', o.tgname, o.on_table);
  END LOOP;
END $$;

CREATE FUNCTION realtime.empty(slot integer, oldest interval, published pg_snapshot) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
  f pg_snapshot;
BEGIN
  IF realtime.next_floor(slot, oldest, published) IS NULL THEN
    RETURN false;
  END IF;
  EXECUTE format('LOCK TABLE ONLY realtime.events_%s IN ACCESS EXCLUSIVE MODE NOWAIT', slot);
  f := realtime.next_floor(slot, oldest, published);   -- again: a late writer may have ended in between
  IF f IS NULL THEN
    RETURN false;
  END IF;
  UPDATE realtime.log_state SET floor = f;
  EXECUTE format('TRUNCATE ONLY realtime.events_%s', slot);
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN NULL;
END $$;

CREATE FUNCTION realtime.encode_name(name text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  SELECT string_agg(CASE WHEN strpos('%,=:./"', ch) > 0 OR ascii(ch) < 32 OR ascii(ch) = 127
    THEN '%' || upper(lpad(to_hex(ascii(ch)), 2, '0')) ELSE ch END, '' ORDER BY i)
  FROM regexp_split_to_table(name, '') WITH ORDINALITY c(ch, i)
$$;

CREATE FUNCTION realtime.end_generation(gen integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET client_min_messages TO 'warning'
    AS $$
BEGIN
  EXECUTE format('DROP FUNCTION IF EXISTS realtime.%I() CASCADE',
    (SELECT g.capture FROM realtime.generations g WHERE g.gen = end_generation.gen));
  UPDATE realtime.generations g SET ended = true WHERE g.gen = end_generation.gen;
  PERFORM realtime.announce(gen);
END $$;

CREATE PROCEDURE realtime.finish_purges(IN wait interval DEFAULT '00:01:00'::interval, INOUT still_open bigint DEFAULT NULL::bigint)
    LANGUAGE plpgsql
    AS $$
DECLARE
  older pg_snapshot; newer pg_snapshot; step int := 0;
  steps numeric := EXTRACT(epoch FROM wait) OPERATOR(pg_catalog.*) 10.0;
BEGIN
  LOOP
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    still_open := (SELECT pg_catalog.count(*) FROM realtime.purges WHERE done IS NULL);
    EXIT WHEN still_open OPERATOR(pg_catalog.=) 0 OR step OPERATOR(pg_catalog.>=) steps;
    IF step OPERATOR(pg_catalog.%) 20 OPERATOR(pg_catalog.=) 0 THEN
      older := newer;
      newer := pg_catalog.pg_current_snapshot();
    END IF;
    IF NOT realtime.turn_alone(older) THEN
      older := NULL;
      newer := NULL;
    END IF;
    step := step OPERATOR(pg_catalog.+) 1;
    COMMIT;
    PERFORM pg_catalog.pg_sleep(0.1);
  END LOOP;
END $$;

CREATE FUNCTION realtime.floor_now() RETURNS pg_snapshot
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
  own bigint := pg_current_xact_id()::text::bigint;
  now pg_snapshot := pg_current_snapshot();
  open text;
BEGIN
  SELECT string_agg(x::text, ',' ORDER BY x) INTO open FROM (
    SELECT x::text::bigint AS x FROM pg_snapshot_xip(now) x
    UNION SELECT generate_series(pg_snapshot_xmax(now)::text::bigint, own - 1)) o WHERE o.x < own;
  RETURN concat(coalesce(split_part(open, ',', 1), own::text), ':', own, ':', open)::pg_snapshot;
END $$;

CREATE FUNCTION realtime.incarnate() RETURNS TABLE(n bigint, uuid uuid, tli integer, sysid bigint, db oid, marker oid, recovery_end pg_lsn, fresh boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
<<here>>
DECLARE
  sys bigint; base oid; mark oid := 'realtime.alive'::regclass; line int; last realtime.incarnation; made bigint;
BEGIN
  IF pg_is_in_recovery() THEN
    RAISE EXCEPTION 'realtime needs the primary: this is a standby' USING ERRCODE = 'read_only_sql_transaction';
  END IF;
  PERFORM set_config('synchronous_commit', 'on', true);
  PERFORM pg_advisory_xact_lock(hashtextextended('realtime.incarnation', 0));
  here.sys := (SELECT system_identifier FROM pg_control_system());
  here.base := (SELECT oid FROM pg_database WHERE datname = current_database());
  here.line := ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int;
  RETURN QUERY SELECT i.n, i.uuid, i.tli, i.sysid, i.db, i.marker, i.recovery_end, false
    FROM realtime.alive a JOIN realtime.incarnation i ON i.n = a.n
    WHERE i.sysid = here.sys AND i.db = here.base AND i.marker = here.mark AND i.tli = here.line;
  IF FOUND THEN
    RETURN;
  END IF;
  SELECT * INTO last FROM realtime.incarnation i ORDER BY i.n DESC LIMIT 1;
  IF FOUND AND (last.sysid, last.db, last.marker) IS DISTINCT FROM (here.sys, here.base, here.mark) THEN
    TRUNCATE realtime.events;
    -- A copied sequence believes that its next values are in the WAL: a crash would give them out again.
    PERFORM setval(s, nextval(s)) FROM unnest(ARRAY['realtime.event_id', pg_get_serial_sequence('realtime.incarnation', 'n')]::regclass[]) s;
    UPDATE realtime.log_state SET floor = realtime.floor_now();
    -- Seen by every position from here on; earlier ones are foreign. What was restored has other oids.
    UPDATE realtime.generations g SET xid = '3', relid = coalesce((SELECT c.oid FROM pg_class c
      WHERE c.relname = g.name AND c.relnamespace = (SELECT s.oid FROM pg_namespace s WHERE s.nspname = g.schema)), g.relid);
  END IF;
  DELETE FROM realtime.recorded;
  INSERT INTO realtime.incarnation (sysid, db, marker, tli, recovery_end)
    VALUES (here.sys, here.base, here.mark, here.line, pg_last_wal_replay_lsn()) RETURNING realtime.incarnation.n INTO made;
  INSERT INTO realtime.alive (n) VALUES (made) ON CONFLICT (one) DO UPDATE SET n = EXCLUDED.n;
  RETURN QUERY SELECT i.n, i.uuid, i.tli, i.sysid, i.db, i.marker, i.recovery_end, true FROM realtime.incarnation i WHERE i.n = made;
END $$;

CREATE FUNCTION realtime.insert_source(gen integer, id text, n text, op text, ord text, body text) RETURNS text
    LANGUAGE sql IMMUTABLE
    AS $_$
  SELECT format($s$INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, ord, at, new_vals, old_vals, new, old)
    SELECT realtime.slot(), %s, %s::int, pg_current_xact_id(), %s, %s::"char", pg_trigger_depth()::smallint, %s::bigint, clock_timestamp(),
      %s;$s$, id, n, gen, op, ord, body)
$_$;

CREATE FUNCTION realtime.json_source(hidden text[], source text) RETURNS text
    LANGUAGE sql IMMUTABLE
    AS $$
  SELECT CASE WHEN hidden = '{}' THEN format('row_to_json(%s)', source) ELSE format(
    '(SELECT coalesce(json_object_agg(e.key, e.value), ''{}'') FROM json_each(row_to_json(%s)) e WHERE e.key <> ALL (%L::text[]))', source, hidden) END
$$;

CREATE FUNCTION realtime.json_type(typ oid) RETURNS "char"
    LANGUAGE sql STABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  SELECT (CASE
    WHEN t.oid = ANY ('{int2,int4,int8,float4,float8,numeric}'::regtype[]) THEN 'n'
    WHEN t.oid = 'bool'::regtype THEN 'b'
    WHEN t.oid = ANY ('{timestamp,timestamptz}'::regtype[]) THEN 't'
    WHEN t.oid = ANY ('{json,jsonb}'::regtype[]) OR t.typtype = 'c' OR t.typcategory = 'A' THEN 'o'
    WHEN EXISTS (SELECT FROM pg_cast WHERE castsource = t.oid AND casttarget = 'json'::regtype AND castmethod = 'f') THEN 'o'
    ELSE 's' END)::"char"
  FROM pg_type t WHERE t.oid = realtime.base_type(typ)
$$;

CREATE FUNCTION realtime.located() RETURNS TABLE(gen integer, rel oid)
    LANGUAGE sql STABLE
    AS $$
  SELECT g.gen, coalesce(
    (SELECT t.tgrelid FROM pg_depend d JOIN pg_trigger t ON t.oid = d.objid
      WHERE d.classid = 'pg_trigger'::regclass AND d.refclassid = 'pg_proc'::regclass AND t.tgparentid = 0
        AND d.refobjid = to_regproc(format('realtime.%I', g.capture))
        AND t.tgtype & 4 <> 0
      ORDER BY t.tgrelid <> g.relid LIMIT 1),
    (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.oid = g.relid AND c.relname = g.name AND n.nspname = g.schema))
  FROM realtime.generations g WHERE NOT g.ended
$$;

CREATE FUNCTION realtime.mark() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
DECLARE
  name text := pg_catalog.concat('realtime.mark_', TG_RELID, '_', TG_OP);
BEGIN
  PERFORM pg_catalog.set_config(name, pg_catalog.concat(CASE WHEN pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.=) 1
    THEN '' ELSE pg_catalog.current_setting(name, true) END, ' ', pg_catalog.pg_current_wal_insert_lsn()), true);
  RETURN NULL;
END $$;

CREATE FUNCTION realtime.next_floor(slot integer, oldest interval, published pg_snapshot) RETURNS pg_snapshot
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
  last xid8; top xid8; f pg_snapshot := (SELECT s.floor FROM realtime.log_state s);
BEGIN
  EXECUTE format('SELECT max(xid) FROM realtime.events_%s', slot) INTO last;
  IF last IS NULL THEN
    RETURN f;
  ELSIF published IS NULL OR NOT realtime.sees(published, slot) THEN
    RETURN NULL;
  END IF;
  top := greatest(last, (pg_snapshot_xmax(f)::text::bigint - 1)::text::xid8);
  RETURN (SELECT c.normal FROM (SELECT r.seq, r.snapshot, realtime.normal(r.snapshot, top) AS normal
      FROM (SELECT r.seq, r.snapshot FROM realtime.recorded r WHERE r.elapsed <= oldest
        UNION ALL SELECT 0, published WHERE oldest IS NULL) r
      WHERE pg_snapshot_xmax(r.snapshot) >= pg_snapshot_xmax(f)) c
    WHERE realtime.contains(c.normal, f) AND realtime.contains(published, c.normal) AND realtime.sees(c.snapshot, slot)
    ORDER BY c.seq LIMIT 1);
END $$;

CREATE FUNCTION realtime.normal(s pg_snapshot, d xid8) RETURNS pg_snapshot
    LANGUAGE sql IMMUTABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  SELECT concat(coalesce(min(x), m.top), ':', m.top, ':', string_agg(x::text, ',' ORDER BY x))::pg_snapshot
  FROM (SELECT (d::text::bigint + 1)::text::xid8 AS top) m LEFT JOIN pg_snapshot_xip(s) x ON x < m.top GROUP BY m.top
$$;

CREATE FUNCTION realtime.normal_routes(rel regclass, routes text[]) RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
  r text; columns text[]; c text; a pg_attribute; result text[] := '{}';
BEGIN
  FOREACH r IN ARRAY coalesce(routes, '{}') LOOP
    columns := realtime.route_columns(coalesce(r, ''));
    FOREACH c IN ARRAY columns LOOP
      SELECT * INTO a FROM pg_attribute WHERE attrelid = rel AND attname = c AND attnum > 0 AND NOT attisdropped;
      IF NOT FOUND THEN
        RAISE EXCEPTION 'realtime: table % has no column "%" (route "%")', rel, c, r USING ERRCODE = 'undefined_column',
          HINT = 'Its columns: ' || (SELECT string_agg(realtime.encode_name(attname), ', ' ORDER BY attnum) FROM pg_attribute
            WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped);
      ELSIF realtime.json_type(a.atttypid) = 'o' OR a.attgenerated = 'v' THEN
        RAISE EXCEPTION 'realtime: column "%" of % cannot be in a route: %', c, rel, CASE WHEN a.attgenerated = 'v'
          THEN 'it is a virtual generated column' ELSE 'values of type ' || format_type(a.atttypid, a.atttypmod) || ' have no one spelling' END
          USING ERRCODE = 'invalid_parameter_value';
      END IF;
    END LOOP;
    IF (SELECT count(DISTINCT u) FROM unnest(columns) u) < cardinality(columns) THEN
      RAISE EXCEPTION 'realtime: route "%" names a column twice', r USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF columns IS DISTINCT FROM (SELECT d.key FROM realtime.describe(rel) d) AND realtime.route_text(columns) <> ALL (result) THEN
      result := result || realtime.route_text(columns);
    END IF;
  END LOOP;
  RETURN result;
END $$;

CREATE FUNCTION realtime.note_emptied(requests bigint[], emptied integer[]) RETURNS void
    LANGUAGE sql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  UPDATE realtime.purges p SET slots = l.rest, done = CASE WHEN l.rest = '{}' THEN clock_timestamp() END
  FROM (SELECT o.n, ARRAY(SELECT s FROM unnest(o.slots) s WHERE s <> ALL (emptied) ORDER BY s) AS rest
    FROM realtime.purges o WHERE o.n = ANY (requests)) l
  WHERE p.n = l.n AND p.slots <> l.rest
$$;

CREATE FUNCTION realtime."position"() RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
  snap pg_snapshot := pg_current_snapshot();
  own bigint := pg_current_xact_id_if_assigned()::text::bigint;
  top bigint := pg_snapshot_xmax(snap)::text::bigint;
  open bigint[] := ARRAY(SELECT x::text::bigint AS x FROM pg_snapshot_xip(snap) x
    UNION SELECT own WHERE own < top ORDER BY 1);     -- ascending
  d bigint;                                           -- the highest event xid that is visible
  head text; diffs text; result text;
BEGIN
  IF pg_is_in_recovery() THEN
    RAISE EXCEPTION 'realtime.position() needs the primary: this is a standby' USING ERRCODE = 'read_only_sql_transaction';
  END IF;
  -- From the top range of finished xids down, so that an open bulk writer's rows are never scanned.
  SELECT coalesce((SELECT m.x FROM unnest(0 || open, open || top) WITH ORDINALITY r(lo, hi, i)
      CROSS JOIN LATERAL (SELECT max(e.xid)::text::bigint AS x FROM realtime.events e
        WHERE e.xid > r.lo::text::xid8 AND e.xid < r.hi::text::xid8) m
      WHERE m.x IS NOT NULL ORDER BY r.i DESC LIMIT 1), 0) INTO d;
  d := greatest(d, (SELECT pg_snapshot_xmax(s.floor)::text::bigint - 1 FROM realtime.log_state s));
  -- The lowest open xids that fit; xmax is the first that does not, or d + 1.
  WITH o AS (SELECT x, lead(x, 1, d + 1) OVER (ORDER BY x) AS next FROM unnest(open) x WHERE x <= d),
    f AS (SELECT x, next, sum(length((next - x)::text) + 1) OVER (ORDER BY x) AS size FROM o)
  SELECT coalesce(max(next) FILTER (WHERE size <= 3900), d + 1),
    string_agg((next - x)::text, '.' ORDER BY x DESC) FILTER (WHERE size <= 3900) INTO top, diffs FROM f;
  SELECT concat('a', coalesce(max(i.n), 0), '-', coalesce(left((array_agg(i.uuid ORDER BY i.n DESC))[1]::text, 8), '00000000'), '-', top, '-',
    to_hex((pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint), '-', diffs) INTO head FROM realtime.incarnation i;
  RETURN concat(head, '-', left(encode(sha256(convert_to(head, 'UTF8')), 'hex'), 8));
END $$;

CREATE FUNCTION realtime.purge() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
  made bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
  INSERT INTO realtime.purges DEFAULT VALUES RETURNING n INTO made;
  IF NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND (classid, objid, objsubid) = (1919247220, 2, 2)
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) THEN
    RAISE NOTICE 'realtime: no server leads now; the next that does will purge, or: CALL realtime.finish_purges()';
  END IF;
  RETURN made;
END $$;

CREATE FUNCTION realtime.refuse(rel regclass) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
  c pg_class := (SELECT c FROM pg_class c WHERE c.oid = rel);
  why text := CASE
    WHEN c.oid IS NULL THEN 'there is no such table'
    WHEN c.relkind NOT IN ('r', 'p') THEN CASE c.relkind WHEN 'v' THEN 'it is a view: watch the tables beneath it'
      WHEN 'm' THEN 'it is a materialized view: watch the tables beneath it' WHEN 'f' THEN 'it is a foreign table: its changes are made elsewhere'
      ELSE 'it is not a table' END
    WHEN c.relpersistence = 't' THEN 'it is a temporary table'
    WHEN c.relpersistence = 'u' THEN 'it is unlogged: a crash empties it without a change that could be told'
    WHEN c.relnamespace = 'realtime'::regnamespace THEN 'it is one of realtime''s own'
    WHEN c.relnamespace IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace, 'information_schema'::regnamespace) THEN 'it is a system table'
    WHEN c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) THEN 'other tables inherit from it: watch those'
    WHEN current_setting('transaction_isolation') <> 'read committed' THEN 'the transaction has to be READ COMMITTED' END;
BEGIN
  IF why IS NOT NULL THEN
    RAISE EXCEPTION 'realtime: % cannot be watched: %', rel, why USING ERRCODE = 'invalid_parameter_value';
  END IF;
END $$;

CREATE FUNCTION realtime.ring_time(keep interval, tick interval, pressed boolean) RETURNS interval
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
  age interval; gone interval; due_after interval := CASE WHEN pressed THEN tick ELSE keep END; last interval := (SELECT max(r.elapsed) FROM realtime.recorded r);
BEGIN
  SELECT r.elapsed, clock_timestamp() - r.seen INTO age, gone FROM realtime.ring r FOR UPDATE;
  IF gone < '0' OR gone >= least(tick, keep / 50) THEN
    UPDATE realtime.ring SET elapsed = elapsed + least(greatest(gone, '0'), tick), seen = clock_timestamp() RETURNING elapsed INTO age;
  END IF;
  IF last IS NULL OR age - last >= least(keep / 8, due_after) THEN
    INSERT INTO realtime.recorded (elapsed, snapshot) VALUES (age, pg_current_snapshot());
    -- those beyond twice `keep` are of no use; under pressure the newest 64 serve
    DELETE FROM realtime.recorded r WHERE r.elapsed < age - 2 * keep
      OR r.seq <= (SELECT max(m.seq) - 64 FROM realtime.recorded m);
  END IF;
  RETURN age;
END $$;

CREATE FUNCTION realtime.route_columns(route text) RETURNS text[]
    LANGUAGE sql IMMUTABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  SELECT array_agg(realtime.decode_name(c) ORDER BY i) FROM regexp_split_to_table(route, ',') WITH ORDINALITY t(c, i)
$$;

CREATE FUNCTION realtime.route_text(columns text[]) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
  SELECT string_agg(realtime.encode_name(c), ',' ORDER BY i) FROM unnest(columns) WITH ORDINALITY t(c, i)
$$;

CREATE FUNCTION realtime.row_source(rel oid, gen integer, vals text[], hidden text[]) RETURNS text
    LANGUAGE sql STABLE
    AS $_$
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
    realtime.insert_source(gen, 'nextval(''realtime.event_id'')', '0', 'TG_ARGV[0]', 'NULL', 'NULL::text[], NULL::text[], NULL::json, NULL::json'),
    realtime.json_source(hidden, 'NEW'), realtime.vals_source(vals, rel, 'r', 'here.new_json'),
    realtime.json_source(hidden, 'OLD'), realtime.vals_source(vals, rel, 'r', 'here.old_json'),
    realtime.insert_source(gen, 'nextval(''realtime.event_id'')', '0', 'left(TG_OP, 1)', 'NULL', 'here.new_vals, here.old_vals, here.new_json, here.old_json'))
$_$;

CREATE FUNCTION realtime.sees(s pg_snapshot, slot integer) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $_$
DECLARE
  result bool;
BEGIN
  EXECUTE format('SELECT coalesce(max(xid) < pg_snapshot_xmax($1), true)
    AND NOT EXISTS (SELECT FROM pg_snapshot_xip($1) x JOIN realtime.events_%s e ON e.xid = x) FROM realtime.events_%1$s', slot)
    INTO result USING s;
  RETURN result;
END $_$;

CREATE FUNCTION realtime.settings(rel oid, vals text[]) RETURNS SETOF text
    LANGUAGE sql STABLE
    AS $$
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
$$;

CREATE FUNCTION realtime.slot() RETURNS smallint
    LANGUAGE sql STABLE
    AS $$SELECT 0::smallint$$;

CREATE FUNCTION realtime.statement_source(rel oid, gen integer, vals text[], hidden text[], mark boolean) RETURNS text
    LANGUAGE plpgsql STABLE
    AS $_$
DECLARE
  ord text := CASE WHEN mark THEN 'here.ord' ELSE 'NULL' END;
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
    realtime.insert_source(gen, each, '0', '''I''', ord, format('k.vals, NULL::text[], %s, NULL::json FROM new_rows x CROSS JOIN %s', json, vals_of_x)),
    realtime.insert_source(gen, each, '0', '''U''', ord, format('w.vals, o.vals, %s, %s FROM %s CROSS JOIN %s WHERE o.r *<> w.r',
      realtime.json_source(hidden, 'w.r'), realtime.json_source(hidden, 'o.r'),
      format(side, '', 'old_rows', vals_of_x, 'o'), format(side, '', 'new_rows', vals_of_x, 'w'))),
    realtime.insert_source(gen, '(SELECT nextval(''realtime.event_id''))', '(coalesce(w.n, o.n) - 1)',
      'CASE WHEN o.n IS NULL THEN ''I'' WHEN w.n IS NULL THEN ''D'' ELSE ''U'' END', ord, format(
      'w.vals, o.vals, %s, %s FROM %s FULL JOIN %s USING (n) WHERE o.n IS NULL OR w.n IS NULL OR o.r *<> w.r',
      CASE WHEN hidden = '{}' THEN 'row_to_json(w.r)' ELSE 'CASE WHEN w.n IS NOT NULL THEN ' || realtime.json_source(hidden, 'w.r') || ' END' END,
      CASE WHEN hidden = '{}' THEN 'row_to_json(o.r)' ELSE 'CASE WHEN o.n IS NOT NULL THEN ' || realtime.json_source(hidden, 'o.r') || ' END' END,
      format(side, counted, 'old_rows', vals_of_x, 'o'), format(side, counted, 'new_rows', vals_of_x, 'w'))),
    realtime.insert_source(gen, each, '0', '''D''', ord, format('NULL::text[], k.vals, NULL::json, %s FROM old_rows x CROSS JOIN %s', json, vals_of_x)),
    realtime.insert_source(gen, each, '0', '''T''', ord, 'NULL::text[], NULL::text[], NULL::json, NULL::json'));
END $_$;

CREATE FUNCTION realtime.still_route(rel oid, route text) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
  SELECT bool_and(a.attname IS NOT NULL AND a.attgenerated <> 'v' AND realtime.json_type(a.atttypid) <> 'o')
    AND array_agg(c) IS DISTINCT FROM (SELECT d.key FROM realtime.describe(rel) d)
  FROM unnest(realtime.route_columns(route)) c
  LEFT JOIN pg_attribute a ON a.attrelid = rel AND a.attname = c AND a.attnum > 0 AND NOT a.attisdropped
$$;

CREATE FUNCTION realtime.switch(slot integer, age interval) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
  UPDATE realtime.log_state s SET slot = switch.slot;
  EXECUTE format('CREATE OR REPLACE FUNCTION realtime.slot() RETURNS smallint LANGUAGE sql STABLE AS %L', format('SELECT %s::smallint', slot));
  UPDATE realtime.ring SET switched = age;
  INSERT INTO realtime.recorded (elapsed, snapshot) VALUES (age, pg_current_snapshot());
END $$;

CREATE FUNCTION realtime.timelines() RETURNS TABLE(tli integer, ended pg_lsn)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
  RETURN QUERY SELECT m[1]::int, m[2]::pg_lsn FROM regexp_matches(
    pg_read_file(format('pg_wal/%s.history', left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)), 0, 1048576, true),
    '^\s*([0-9]+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)', 'gn') m;
EXCEPTION WHEN insufficient_privilege THEN
  RETURN;
END $$;

CREATE FUNCTION realtime.triggers(rel oid, level "char", mark boolean, capture text) RETURNS TABLE(relid oid, name text, type smallint, sql text)
    LANGUAGE sql STABLE
    AS $$
  SELECT rel, v.name, v.type, format('CREATE TRIGGER %I %s ON %s %s EXECUTE FUNCTION realtime.%I(%s)', v.name, v.event,
      rel::regclass, v.how, CASE WHEN v.type = 30 THEN 'mark' ELSE capture END, v.arg)
  FROM (VALUES
    ('realtime_insert', 4::smallint, 'AFTER INSERT', 'REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT', ''),
    ('realtime_update', 16::smallint, 'AFTER UPDATE',
      'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT', ''),
    ('realtime_delete', 8::smallint, 'AFTER DELETE', 'REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT', ''),
    ('realtime_truncate', 32::smallint, 'AFTER TRUNCATE', 'FOR EACH STATEMENT', '''T'''),
    ('realtime_mark', 30::smallint, 'BEFORE INSERT OR UPDATE OR DELETE', 'FOR EACH STATEMENT', '')
  ) v(name, type, event, how, arg) WHERE level = 's' AND (mark OR v.type <> 30)
  UNION ALL
  SELECT m.relid, v.name, v.type, CASE WHEN m.relid = rel OR v.type = 32 THEN
    format('CREATE TRIGGER %I %s ON %s %s EXECUTE FUNCTION realtime.%I(%L)', v.name, v.event, m.relid::regclass, v.how, capture,
      CASE WHEN m.relid = rel THEN 'T' ELSE 'R' END) END
  FROM (VALUES
    ('00_realtime_insert', 5::smallint, 'AFTER INSERT', 'FOR EACH ROW'),
    ('00_realtime_update', 17::smallint, 'AFTER UPDATE', 'FOR EACH ROW'),
    ('00_realtime_delete', 9::smallint, 'AFTER DELETE', 'FOR EACH ROW'),
    ('00_realtime_truncate', 32::smallint, 'AFTER TRUNCATE', 'FOR EACH STATEMENT')
  ) b(name, type, event, how) CROSS JOIN LATERAL
    (SELECT b.name || substr(capture, length('capture') + 1) AS name, b.type, b.event, b.how) v
  CROSS JOIN (SELECT rel AS relid UNION SELECT t.relid::oid FROM pg_partition_tree(rel) t) m
  WHERE level = 'r'
$$;

CREATE FUNCTION realtime.turn(keep interval, max_bytes bigint, published pg_snapshot) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET lock_timeout TO '50ms'
    AS $$
DECLARE
  requests bigint[]; purged int[]; current int; sizes bigint[]; used bool[]; others int[]; free int;
  pressed bool; large bool; due bool; age interval; s int; done bool; locked int[]; stuck bool := false; started timestamptz := clock_timestamp();
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'realtime.turn() needs a READ COMMITTED transaction';
  ELSIF keep <= '0' OR max_bytes <= 0 THEN
    RAISE EXCEPTION 'realtime.turn(): keep and max_bytes have to be positive';
  END IF;
  PERFORM FROM realtime.ring FOR UPDATE;   -- one turn at a time, each of what the last one left
  requests := ARRAY(SELECT p.n FROM realtime.purges p WHERE p.done IS NULL);   -- before the sizes: what they ask for shows in these
  current := (SELECT l.slot FROM realtime.log_state l);
  sizes := ARRAY(SELECT pg_total_relation_size(format('realtime.events_%s', i)) FROM generate_series(0, 3) i ORDER BY i);
  used := ARRAY(SELECT pg_relation_size(format('realtime.events_%s', i)) > 0 FROM generate_series(0, 3) i ORDER BY i);
  others := ARRAY(SELECT (current + i) % 4 FROM generate_series(1, 3) i WHERE used[(current + i) % 4 + 1] ORDER BY i);   -- oldest first
  free := (SELECT (current + i) % 4 FROM generate_series(1, 3) i WHERE NOT used[(current + i) % 4 + 1] ORDER BY i LIMIT 1);
  PERFORM realtime.note_emptied(requests, ARRAY(SELECT i FROM generate_series(0, 3) i WHERE NOT used[i + 1]));
  purged := ARRAY(SELECT DISTINCT unnest(p.slots) FROM realtime.purges p WHERE p.n = ANY (requests));
  pressed := (SELECT sum(b) FROM unnest(sizes) b) >= max_bytes;
  large := sizes[current + 1] >= max_bytes / 4;
  age := realtime.ring_time(keep, '15 s', pressed OR large);
  due := used[current + 1] AND (large OR current = ANY (purged) OR (SELECT age - r.switched >= keep / 2 FROM realtime.ring r));
  IF due AND free IS NOT NULL THEN
    PERFORM realtime.switch(free, age);
    RETURN 'switched';
  END IF;
  FOR try IN 1 .. 10 LOOP            -- readers come and go within a fraction of a millisecond
    locked := '{}';
    FOREACH s IN ARRAY others LOOP
      done := realtime.empty(s, CASE WHEN s = ANY (purged) THEN NULL WHEN pressed THEN age ELSE age - keep END, published);
      IF done THEN
        PERFORM realtime.note_emptied(requests, ARRAY[s]);
        PERFORM set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
        RETURN 'emptied';
      END IF;
      locked := CASE WHEN done IS NULL THEN locked || s ELSE locked END;
    END LOOP;
    EXIT WHEN locked = '{}' OR clock_timestamp() - started > '100 ms';   -- beneath an open bulk writer's rows a look is long
    PERFORM pg_sleep(0.003);
  END LOOP;
  FOREACH s IN ARRAY locked LOOP     -- where nothing is committed nothing is old
    EXECUTE format('SELECT max(xid) IS NOT NULL FROM realtime.events_%s', s) INTO done;
    stuck := stuck OR done OR s = ANY (purged);
  END LOOP;
  RETURN CASE WHEN due OR pressed OR stuck OR EXISTS (SELECT FROM realtime.purges p
    WHERE p.n = ANY (requests) AND p.requested < clock_timestamp() - interval '10 s') THEN 'blocked' END;
EXCEPTION WHEN lock_not_available THEN   -- of another turn, or of somebody who has locked a whole partition
  RETURN 'blocked';
END $$;

CREATE FUNCTION realtime.turn_alone(published pg_snapshot) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
BEGIN
  IF NOT pg_try_advisory_xact_lock(1919247220, 2) THEN
    RETURN false;
  END IF;
  PERFORM realtime.turn('1000 years', 9223372036854775807, published);
  RETURN true;
END $$;

CREATE FUNCTION realtime.unwatch("table" regclass) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
DECLARE
  g realtime.generations;
BEGIN
  EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', "table");
  PERFORM pg_advisory_xact_lock(1919247220, 3);
  SELECT * INTO g FROM realtime.generations o WHERE o.relid = "table" AND NOT o.ended;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  PERFORM realtime.drop_triggers("table", g.capture);
  PERFORM realtime.end_generation(g.gen);
  RETURN g.gen;
END $$;

CREATE FUNCTION realtime.vals_source(vals text[], rel oid, level "char", source text) RETURNS text
    LANGUAGE sql STABLE
    AS $$
  SELECT coalesce('ARRAY[' || string_agg(CASE WHEN level = 's' THEN format('%I::text', v.name)
    WHEN realtime.json_type(a.atttypid) = 't' THEN format('replace(replace(%s ->> %L, ''T'', '' ''), ''+00:00'', ''+00'')', source, v.name)
    WHEN realtime.base_type(a.atttypid) = 'bpchar'::regtype THEN format('rtrim(%s ->> %L)', source, v.name)
    ELSE format('%s ->> %L', source, v.name) END, ', ' ORDER BY v.i) || ']::text[]', 'NULL::text[]')
  FROM unnest(vals) WITH ORDINALITY v(name, i) JOIN pg_attribute a ON a.attrelid = rel AND a.attname = v.name
$$;

CREATE FUNCTION realtime.watch("table" regclass, routes text[] DEFAULT '{}'::text[]) RETURNS integer
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
#variable_conflict use_column
<<here>>
DECLARE
  rel oid := "table"; wanted text[]; d record; g realtime.generations; gen int; sql text;
BEGIN
  PERFORM realtime.refuse("table");
  EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', "table");
  PERFORM pg_advisory_xact_lock(1919247220, 3);
  here.wanted := realtime.normal_routes("table", watch.routes);
  SELECT * INTO d FROM realtime.describe(here.rel);
  SELECT * INTO g FROM realtime.generations o WHERE o.relid = here.rel AND NOT o.ended;
  IF FOUND AND g.fingerprint = d.fingerprint AND g.level = d.level AND g.mark = d.mark AND g.routes = here.wanted
    AND NOT EXISTS (SELECT FROM realtime.wrong_triggers(here.rel, d.level, d.mark, g.capture)) THEN
    RETURN g.gen;
  END IF;
  here.gen := realtime.begin_generation(here.rel, here.wanted, d.level, d.mark, g.gen);
  SELECT * INTO g FROM realtime.generations o WHERE o.gen = here.gen;
  IF EXISTS (SELECT FROM realtime.wrong_triggers(here.rel, d.level, d.mark, g.capture)) THEN
    PERFORM realtime.drop_triggers(here.rel, g.capture);
    FOR sql IN SELECT e.sql FROM realtime.triggers(here.rel, d.level, d.mark, g.capture) e WHERE e.sql IS NOT NULL ORDER BY e.relid <> here.rel LOOP
      EXECUTE sql;
    END LOOP;
  END IF;
  RETURN here.gen;
END $$;

CREATE FUNCTION realtime.wrong_triggers(rel oid, level "char", mark boolean, capture text) RETURNS TABLE(relid oid, name text, problem text)
    LANGUAGE sql STABLE
    AS $$
  SELECT coalesce(e.relid, t.tgrelid), coalesce(e.name, t.tgname::text), CASE WHEN t.tgname IS NULL THEN 'is missing'
    WHEN e.name IS NULL THEN 'is not needed' ELSE 'is disabled' END
  FROM realtime.triggers(rel, level, mark, capture) e
  FULL JOIN (SELECT t.tgrelid, t.tgname, t.tgtype, t.tgenabled FROM pg_depend d JOIN pg_trigger t ON t.oid = d.objid
      WHERE d.classid = 'pg_trigger'::regclass AND d.refclassid = 'pg_proc'::regclass
        AND (d.refobjid = to_regproc(format('realtime.%I', capture)) OR d.refobjid = 'realtime.mark'::regproc AND t.tgrelid = rel)) t
    ON t.tgrelid = e.relid AND t.tgname = e.name AND t.tgtype = e.type
  WHERE t.tgname IS NULL OR e.name IS NULL OR t.tgenabled NOT IN ('O', 'A')
$$;

CREATE TABLE public.notifications (
    id bigint NOT NULL,
    user_id bigint NOT NULL,
    kind text DEFAULT ''::text NOT NULL,
    body text DEFAULT ''::text NOT NULL,
    read_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE public.notifications ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.notifications_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.posts (
    id bigint NOT NULL,
    author_id bigint NOT NULL,
    title text DEFAULT ''::text NOT NULL,
    body text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE public.posts ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME public.posts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE UNLOGGED TABLE realtime.alive (
    one boolean DEFAULT true NOT NULL,
    n bigint NOT NULL,
    CONSTRAINT alive_one_check CHECK (one)
);

CREATE TABLE realtime.created (
    relid oid NOT NULL
);

CREATE SEQUENCE realtime.event_id
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

CREATE TABLE realtime.events (
    slot smallint NOT NULL,
    id bigint NOT NULL,
    n integer NOT NULL,
    xid xid8 NOT NULL,
    gen integer NOT NULL,
    op "char" NOT NULL,
    depth smallint NOT NULL,
    ord bigint,
    at timestamp with time zone NOT NULL,
    new_vals text[],
    old_vals text[],
    new json,
    old json
)
PARTITION BY LIST (slot);
ALTER TABLE ONLY realtime.events ALTER COLUMN new_vals SET STATISTICS 0;
ALTER TABLE ONLY realtime.events ALTER COLUMN old_vals SET STATISTICS 0;
ALTER TABLE ONLY realtime.events ALTER COLUMN new SET STATISTICS 0;
ALTER TABLE ONLY realtime.events ALTER COLUMN old SET STATISTICS 0;

CREATE TABLE realtime.events_0 (
    slot smallint CONSTRAINT events_slot_not_null NOT NULL,
    id bigint CONSTRAINT events_id_not_null NOT NULL,
    n integer CONSTRAINT events_n_not_null NOT NULL,
    xid xid8 CONSTRAINT events_xid_not_null NOT NULL,
    gen integer CONSTRAINT events_gen_not_null NOT NULL,
    op "char" CONSTRAINT events_op_not_null NOT NULL,
    depth smallint CONSTRAINT events_depth_not_null NOT NULL,
    ord bigint,
    at timestamp with time zone CONSTRAINT events_at_not_null NOT NULL,
    new_vals text[],
    old_vals text[],
    new json,
    old json
)
WITH (autovacuum_enabled='false');
ALTER TABLE ONLY realtime.events_0 ALTER COLUMN new_vals SET STATISTICS 0;
ALTER TABLE ONLY realtime.events_0 ALTER COLUMN old_vals SET STATISTICS 0;
ALTER TABLE ONLY realtime.events_0 ALTER COLUMN new SET STATISTICS 0;
ALTER TABLE ONLY realtime.events_0 ALTER COLUMN old SET STATISTICS 0;

CREATE TABLE realtime.events_1 (
    slot smallint CONSTRAINT events_slot_not_null NOT NULL,
    id bigint CONSTRAINT events_id_not_null NOT NULL,
    n integer CONSTRAINT events_n_not_null NOT NULL,
    xid xid8 CONSTRAINT events_xid_not_null NOT NULL,
    gen integer CONSTRAINT events_gen_not_null NOT NULL,
    op "char" CONSTRAINT events_op_not_null NOT NULL,
    depth smallint CONSTRAINT events_depth_not_null NOT NULL,
    ord bigint,
    at timestamp with time zone CONSTRAINT events_at_not_null NOT NULL,
    new_vals text[],
    old_vals text[],
    new json,
    old json
)
WITH (autovacuum_enabled='false');
ALTER TABLE ONLY realtime.events_1 ALTER COLUMN new_vals SET STATISTICS 0;
ALTER TABLE ONLY realtime.events_1 ALTER COLUMN old_vals SET STATISTICS 0;
ALTER TABLE ONLY realtime.events_1 ALTER COLUMN new SET STATISTICS 0;
ALTER TABLE ONLY realtime.events_1 ALTER COLUMN old SET STATISTICS 0;

CREATE TABLE realtime.events_2 (
    slot smallint CONSTRAINT events_slot_not_null NOT NULL,
    id bigint CONSTRAINT events_id_not_null NOT NULL,
    n integer CONSTRAINT events_n_not_null NOT NULL,
    xid xid8 CONSTRAINT events_xid_not_null NOT NULL,
    gen integer CONSTRAINT events_gen_not_null NOT NULL,
    op "char" CONSTRAINT events_op_not_null NOT NULL,
    depth smallint CONSTRAINT events_depth_not_null NOT NULL,
    ord bigint,
    at timestamp with time zone CONSTRAINT events_at_not_null NOT NULL,
    new_vals text[],
    old_vals text[],
    new json,
    old json
)
WITH (autovacuum_enabled='false');
ALTER TABLE ONLY realtime.events_2 ALTER COLUMN new_vals SET STATISTICS 0;
ALTER TABLE ONLY realtime.events_2 ALTER COLUMN old_vals SET STATISTICS 0;
ALTER TABLE ONLY realtime.events_2 ALTER COLUMN new SET STATISTICS 0;
ALTER TABLE ONLY realtime.events_2 ALTER COLUMN old SET STATISTICS 0;

CREATE TABLE realtime.events_3 (
    slot smallint CONSTRAINT events_slot_not_null NOT NULL,
    id bigint CONSTRAINT events_id_not_null NOT NULL,
    n integer CONSTRAINT events_n_not_null NOT NULL,
    xid xid8 CONSTRAINT events_xid_not_null NOT NULL,
    gen integer CONSTRAINT events_gen_not_null NOT NULL,
    op "char" CONSTRAINT events_op_not_null NOT NULL,
    depth smallint CONSTRAINT events_depth_not_null NOT NULL,
    ord bigint,
    at timestamp with time zone CONSTRAINT events_at_not_null NOT NULL,
    new_vals text[],
    old_vals text[],
    new json,
    old json
)
WITH (autovacuum_enabled='false');
ALTER TABLE ONLY realtime.events_3 ALTER COLUMN new_vals SET STATISTICS 0;
ALTER TABLE ONLY realtime.events_3 ALTER COLUMN old_vals SET STATISTICS 0;
ALTER TABLE ONLY realtime.events_3 ALTER COLUMN new SET STATISTICS 0;
ALTER TABLE ONLY realtime.events_3 ALTER COLUMN old SET STATISTICS 0;

CREATE TABLE realtime.generations (
    gen integer NOT NULL,
    relid oid NOT NULL,
    schema text NOT NULL,
    name text NOT NULL,
    key text[],
    routes text[] NOT NULL,
    vals text[] NOT NULL,
    types text[] NOT NULL,
    json_types "char"[] NOT NULL,
    level "char" NOT NULL,
    mark boolean NOT NULL,
    capture text NOT NULL,
    ended boolean DEFAULT false NOT NULL,
    fingerprint text NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE realtime.incarnation (
    n bigint NOT NULL,
    uuid uuid DEFAULT gen_random_uuid() NOT NULL,
    sysid bigint NOT NULL,
    db oid NOT NULL,
    marker oid NOT NULL,
    tli integer NOT NULL,
    recovery_end pg_lsn,
    started timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE realtime.incarnation ALTER COLUMN n ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME realtime.incarnation_n_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE realtime.log_state (
    one boolean DEFAULT true NOT NULL,
    slot smallint NOT NULL,
    floor pg_snapshot NOT NULL,
    CONSTRAINT log_state_one_check CHECK (one)
);

CREATE TABLE realtime.meta (
    version integer NOT NULL,
    compatible_from integer NOT NULL
);

CREATE TABLE realtime.migrations (
    version_num character varying(32) NOT NULL
);

CREATE TABLE realtime.purges (
    n bigint NOT NULL,
    by text DEFAULT SESSION_USER NOT NULL,
    requested timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    slots integer[] DEFAULT '{0,1,2,3}'::integer[] NOT NULL,
    done timestamp with time zone
);

ALTER TABLE realtime.purges ALTER COLUMN n ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME realtime.purges_n_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE realtime.recorded (
    seq bigint NOT NULL,
    elapsed interval NOT NULL,
    snapshot pg_snapshot NOT NULL
);

ALTER TABLE realtime.recorded ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME realtime.recorded_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE realtime.ring (
    one boolean DEFAULT true NOT NULL,
    elapsed interval DEFAULT '00:00:00'::interval NOT NULL,
    seen timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    switched interval DEFAULT '00:00:00'::interval NOT NULL,
    CONSTRAINT ring_one_check CHECK (one)
)
WITH (fillfactor='50');

ALTER TABLE ONLY realtime.events ATTACH PARTITION realtime.events_0 FOR VALUES IN ('0');

ALTER TABLE ONLY realtime.events ATTACH PARTITION realtime.events_1 FOR VALUES IN ('1');

ALTER TABLE ONLY realtime.events ATTACH PARTITION realtime.events_2 FOR VALUES IN ('2');

ALTER TABLE ONLY realtime.events ATTACH PARTITION realtime.events_3 FOR VALUES IN ('3');

ALTER TABLE ONLY public.notifications
    ADD CONSTRAINT notifications_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.posts
    ADD CONSTRAINT posts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY realtime.alive
    ADD CONSTRAINT alive_pkey PRIMARY KEY (one);

ALTER TABLE ONLY realtime.created
    ADD CONSTRAINT created_pkey PRIMARY KEY (relid);

ALTER TABLE ONLY realtime.generations
    ADD CONSTRAINT generations_pkey PRIMARY KEY (gen);

ALTER TABLE ONLY realtime.incarnation
    ADD CONSTRAINT incarnation_pkey PRIMARY KEY (n);

ALTER TABLE ONLY realtime.log_state
    ADD CONSTRAINT log_state_pkey PRIMARY KEY (one);

ALTER TABLE ONLY realtime.migrations
    ADD CONSTRAINT migrations_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY realtime.purges
    ADD CONSTRAINT purges_pkey PRIMARY KEY (n);

ALTER TABLE ONLY realtime.recorded
    ADD CONSTRAINT recorded_pkey PRIMARY KEY (seq);

ALTER TABLE ONLY realtime.ring
    ADD CONSTRAINT ring_pkey PRIMARY KEY (one);

CREATE INDEX notifications_user_id_idx ON public.notifications USING btree (user_id);

CREATE INDEX posts_author_id_idx ON public.posts USING btree (author_id);

CREATE INDEX events_xid_idx ON ONLY realtime.events USING btree (xid);

CREATE INDEX events_0_xid_idx ON realtime.events_0 USING btree (xid);

CREATE INDEX events_1_xid_idx ON realtime.events_1 USING btree (xid);

CREATE INDEX events_2_xid_idx ON realtime.events_2 USING btree (xid);

CREATE INDEX events_3_xid_idx ON realtime.events_3 USING btree (xid);

ALTER INDEX realtime.events_xid_idx ATTACH PARTITION realtime.events_0_xid_idx;

ALTER INDEX realtime.events_xid_idx ATTACH PARTITION realtime.events_1_xid_idx;

ALTER INDEX realtime.events_xid_idx ATTACH PARTITION realtime.events_2_xid_idx;

ALTER INDEX realtime.events_xid_idx ATTACH PARTITION realtime.events_3_xid_idx;

CREATE TRIGGER realtime_delete AFTER DELETE ON public.notifications REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION realtime.capture_2();

CREATE TRIGGER realtime_delete AFTER DELETE ON public.posts REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION realtime.capture_1();

CREATE TRIGGER realtime_insert AFTER INSERT ON public.notifications REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION realtime.capture_2();

CREATE TRIGGER realtime_insert AFTER INSERT ON public.posts REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION realtime.capture_1();

CREATE TRIGGER realtime_truncate AFTER TRUNCATE ON public.notifications FOR EACH STATEMENT EXECUTE FUNCTION realtime.capture_2('T');

CREATE TRIGGER realtime_truncate AFTER TRUNCATE ON public.posts FOR EACH STATEMENT EXECUTE FUNCTION realtime.capture_1('T');

CREATE TRIGGER realtime_update AFTER UPDATE ON public.notifications REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION realtime.capture_2();

CREATE TRIGGER realtime_update AFTER UPDATE ON public.posts REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION realtime.capture_1();

GRANT USAGE ON SCHEMA realtime TO PUBLIC;

REVOKE ALL ON FUNCTION realtime.announce(gen integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.base_type(typ oid) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.begin_generation(rel oid, routes text[], level "char", mark boolean, previous integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.capture_1() FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.capture_2() FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.capture_source(rel oid, gen integer, vals text[], hidden text[], level "char", mark boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime."check"() FROM PUBLIC;
GRANT ALL ON FUNCTION realtime."check"() TO realtime_reader;

REVOKE ALL ON FUNCTION realtime.contains(s pg_snapshot, f pg_snapshot) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.decode_name(name text) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.describe(rel oid) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.drop_triggers(rel oid, capture text) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.empty(slot integer, oldest interval, published pg_snapshot) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.encode_name(name text) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.end_generation(gen integer) FROM PUBLIC;

REVOKE ALL ON PROCEDURE realtime.finish_purges(IN wait interval, INOUT still_open bigint) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.floor_now() FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.incarnate() FROM PUBLIC;
GRANT ALL ON FUNCTION realtime.incarnate() TO realtime_reader;

REVOKE ALL ON FUNCTION realtime.insert_source(gen integer, id text, n text, op text, ord text, body text) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.json_source(hidden text[], source text) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.json_type(typ oid) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.located() FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.mark() FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.next_floor(slot integer, oldest interval, published pg_snapshot) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.normal(s pg_snapshot, d xid8) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.normal_routes(rel regclass, routes text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.note_emptied(requests bigint[], emptied integer[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.purge() FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.refuse(rel regclass) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.ring_time(keep interval, tick interval, pressed boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.route_columns(route text) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.route_text(columns text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.row_source(rel oid, gen integer, vals text[], hidden text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.sees(s pg_snapshot, slot integer) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.settings(rel oid, vals text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.slot() FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.statement_source(rel oid, gen integer, vals text[], hidden text[], mark boolean) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.still_route(rel oid, route text) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.switch(slot integer, age interval) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.timelines() FROM PUBLIC;
GRANT ALL ON FUNCTION realtime.timelines() TO realtime_reader;

REVOKE ALL ON FUNCTION realtime.triggers(rel oid, level "char", mark boolean, capture text) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.turn(keep interval, max_bytes bigint, published pg_snapshot) FROM PUBLIC;
GRANT ALL ON FUNCTION realtime.turn(keep interval, max_bytes bigint, published pg_snapshot) TO realtime_reader;

REVOKE ALL ON FUNCTION realtime.turn_alone(published pg_snapshot) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.unwatch("table" regclass) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.vals_source(vals text[], rel oid, level "char", source text) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.watch("table" regclass, routes text[]) FROM PUBLIC;

REVOKE ALL ON FUNCTION realtime.wrong_triggers(rel oid, level "char", mark boolean, capture text) FROM PUBLIC;

GRANT SELECT ON TABLE realtime.alive TO realtime_reader;

GRANT SELECT ON TABLE realtime.events TO realtime_reader;

GRANT SELECT ON TABLE realtime.events_0 TO realtime_reader;

GRANT SELECT ON TABLE realtime.events_1 TO realtime_reader;

GRANT SELECT ON TABLE realtime.events_2 TO realtime_reader;

GRANT SELECT ON TABLE realtime.events_3 TO realtime_reader;

GRANT SELECT ON TABLE realtime.generations TO realtime_reader;

GRANT SELECT ON TABLE realtime.incarnation TO realtime_reader;

GRANT SELECT ON TABLE realtime.log_state TO realtime_reader;

GRANT SELECT ON TABLE realtime.meta TO realtime_reader;

GRANT SELECT ON TABLE realtime.purges TO realtime_reader;

GRANT SELECT ON TABLE realtime.recorded TO realtime_reader;

GRANT SELECT ON TABLE realtime.ring TO realtime_reader;
