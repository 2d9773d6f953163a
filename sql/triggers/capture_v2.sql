-- What capture_v1.sql says of statement triggers, with a short way for an UPDATE of one row. Run as realtime_owner; then
-- recapture_v1.sql makes the capture functions anew.
--
-- The log's form is the same. Two windows and a FULL JOIN cost an UPDATE of one row a third of what its capture costs.
-- A statement's old and new rows are equal in number wherever statement triggers are used: what moves a row to another
-- partition, and shows one of the two, is caught by row triggers. So one new row has one old row, and is its pair.

CREATE FUNCTION realtime.statement_source(rel oid, gen int, vals text[], hidden text[], mark bool) RETURNS text LANGUAGE plpgsql STABLE AS $f$
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
END $f$;
