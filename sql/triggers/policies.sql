-- Who may see what: realtime.policies and realtime.revocations, and the event P by which a change of them is in the
-- event log. Run as realtime_owner.
--
-- Invariants
-- - A right is lost exactly where the transaction that takes it stands among the others: the transaction has an event P.
--   Its values are the revocation that begins (sub, jti, issued_before in seconds since 1970), or null where anybody's
--   rights may have changed. P belongs to generation 0, which is of no watched table.
-- - A policy that can't be meant is refused when it is written: what it names is on the air, and spelled as channels are.
CREATE TABLE IF NOT EXISTS realtime.policies (
  name text PRIMARY KEY,
  channel text NOT NULL,       -- posts | notifications:user_id={sub} | orders:tenant_id={tenants},status=* | room/team-{team}-*
  roles text[],                -- null: anybody, anonymous too; else the role of the token is one of these; {*}: any token
  claims jsonb NOT NULL DEFAULT '{}',                      -- the claims of the token contain this (@>)
  may text[] NOT NULL DEFAULT '{subscribe,snapshot}'       -- of subscribe, snapshot, publish, presence
);
CREATE TABLE IF NOT EXISTS realtime.revocations (
  sub text, jti text, issued_before timestamptz,           -- the tokens for which all of these hold that are not null
  until timestamptz NOT NULL,                              -- when the last of them has ended by itself
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  CONSTRAINT revocations_of_something CHECK (num_nonnulls(sub, jti, issued_before) > 0)
);
-- The generation of P events. Its number is below those of all watches, and it has ended before they began.
INSERT INTO realtime.generations (gen, relid, schema, name, key, routes, vals, types, json_types, spellings, level, mark, captured, capture, ended, fingerprint, xid)
  VALUES (0, 'realtime.policies'::regclass, 'realtime', 'policies', NULL, '{}', '{}', '{}', '{}', '{}', 's', false, 'realtime.policies'::regclass, '', true, '', '3')
  ON CONFLICT DO NOTHING;

CREATE OR REPLACE FUNCTION realtime.announce_rights(revocation text[]) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  INSERT INTO realtime.events (slot, id, n, xid, gen, op, depth, at, new_vals)
    SELECT (realtime.slot() + 4) % 4, nextval('realtime.event_id'), 0, pg_current_xact_id(), 0, 'P', 0, clock_timestamp(), revocation;
  IF NOT pg_try_advisory_xact_lock_shared(1919247220, 1) THEN
    PERFORM pg_notify('realtime', '');
  END IF;
END $f$;

-- Has all servers judge every open channel anew: for what decides rights and is in neither table (realtime.may_subscribe).
CREATE OR REPLACE FUNCTION realtime.rights_changed() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
  $f$SELECT realtime.announce_rights(NULL)$f$;

CREATE OR REPLACE FUNCTION realtime.policies_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  PERFORM realtime.announce_rights(NULL);
  RETURN NULL;
END $f$;

-- Whoever deletes a revocation takes nothing from anybody. Those that ended a day ago go with the next that is made.
CREATE OR REPLACE FUNCTION realtime.revocations_added() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
BEGIN
  IF (SELECT count(*) FROM (SELECT FROM added LIMIT 101) a) > 100 THEN
    PERFORM realtime.announce_rights(NULL);
  ELSE
    PERFORM realtime.announce_rights(ARRAY[a.sub, a.jti, extract(epoch FROM a.issued_before)::text]) FROM added a;
  END IF;
  DELETE FROM realtime.revocations r WHERE r.until < clock_timestamp() - interval '1 day';
  RETURN NULL;
END $f$;

-- Raises what is wrong with a pattern, in words that say what to do. The grammar is app.core.patterns'.
CREATE OR REPLACE FUNCTION realtime.refuse_pattern(channel text) RETURNS void LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  claim CONSTANT text := '\{(?:[^{}*.%,=:/"[:cntrl:]]|%[0-7][0-9A-F])+(?:\.(?:[^{}*.%,=:/"[:cntrl:]]|%[0-7][0-9A-F])+)*\}';
  part text; wrong text;
BEGIN
  IF channel ~ '^\{realtime\.(subscribe|snapshot|publish|presence)\}$' THEN
    RETURN;
  ELSIF channel = '' OR length(channel) > 2048 THEN
    wrong := 'it has 1 to 2048 characters';
  ELSIF channel ~ '^room/' THEN
    FOREACH part IN ARRAY regexp_split_to_array(substr(channel, 6), '/') LOOP
      wrong := CASE
        WHEN part = '' THEN 'a segment of the room''s name is empty'
        WHEN part !~ ('^(?:[^{}*%,=:."[:cntrl:]]|%[0-7][0-9A-F]|\*|' || claim || ')+$')
          THEN format('%s is no segment: in a name %% , = : . " { } * and control characters are percent-encoded, and a claim stands in braces', quote_literal(part))
        WHEN regexp_count(part, '\{') > 1 THEN 'two claims in one segment can''t be told apart: put a / between them'
        WHEN regexp_count(part, '\*') > 1 THEN 'a segment has one * at most'
        WHEN part ~ '\}\*|\*\{' THEN 'a claim and a * that touch can''t be told apart: put a character between them' END;
      EXIT WHEN wrong IS NOT NULL;
    END LOOP;
  ELSE
    wrong := realtime.wrong_table_pattern(channel, claim);
  END IF;
  IF wrong IS NOT NULL THEN
    RAISE EXCEPTION 'realtime: the channel % of a policy can''t be meant: %', quote_literal(channel), wrong USING ERRCODE = 'invalid_parameter_value',
      HINT = 'posts | notifications:user_id={sub} | orders:tenant_id={tenants},status=* | room/team-{team}-*';
  END IF;
END $f$;

-- What is wrong with a pattern of a table's channels, or null.
CREATE OR REPLACE FUNCTION realtime.wrong_table_pattern(channel text, claim text) RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  place int := strpos(channel, ':');
  named text := CASE WHEN place > 0 THEN left(channel, place - 1) ELSE channel END;
  pairs text[] := CASE WHEN place > 0 THEN string_to_array(substr(channel, place + 1), ',') END;
  g realtime.generations; routes text[]; asked text; pair text; given text; spelt text;
BEGIN
  SELECT * INTO g FROM realtime.generations o WHERE NOT o.ended
    AND CASE WHEN o.schema = 'public' THEN '' ELSE realtime.encode_name(o.schema) || '.' END || realtime.encode_name(o.name) = named;
  IF NOT FOUND THEN
    RETURN format('no table %s is on the air; on the air are %s, and SELECT realtime.watch(…) puts another there', quote_literal(named),
      coalesce((SELECT string_agg(CASE WHEN o.schema = 'public' THEN '' ELSE realtime.encode_name(o.schema) || '.' END || realtime.encode_name(o.name), ', '
        ORDER BY o.schema <> 'public', o.schema, o.name) FROM realtime.generations o WHERE NOT o.ended), 'none'));
  ELSIF pairs IS NULL THEN
    RETURN NULL;
  END IF;
  asked := array_to_string(ARRAY(SELECT split_part(p, '=', 1) FROM unnest(pairs) WITH ORDINALITY u(p, i) ORDER BY i), ',');
  routes := CASE WHEN array_position(g.spellings[1:cardinality(g.key)], NULL) IS NULL AND cardinality(g.key) > 0 THEN ARRAY[realtime.route_text(g.key)] END || g.routes;
  IF asked = ANY (routes) IS NOT TRUE THEN
    RETURN format('%s has no route %s; it has %s, and SELECT realtime.watch(%L, routes => …) declares another', quote_literal(named), quote_literal(asked),
      coalesce((SELECT string_agg(quote_literal(r), ', ' ORDER BY i) FROM unnest(routes) WITH ORDINALITY u(r, i)), 'none'), named);
  END IF;
  FOREACH pair IN ARRAY pairs LOOP
    given := substr(pair, strpos(pair, '=') + 1);
    IF strpos(pair, '=') = 0 THEN
      RETURN 'after : comes column=value, or several with , between; a value is a claim in braces, a *, or the value itself';
    ELSIF given = '*' OR given ~ ('^' || claim || '$') THEN
      CONTINUE;
    ELSIF given !~ '^(?:[^{}*%,=:./"[:cntrl:]]|%(?:0[1-9A-F]|[1-7][0-9A-F]))*$' THEN
      RETURN format('%s is no value: a claim stands in braces and alone, a * alone, and in a value itself %% , = : . / " { } * and control characters are percent-encoded',
        quote_literal(given));
    END IF;
    BEGIN
      spelt := realtime.canonical(g.gen, realtime.decode_name(split_part(pair, '=', 1)), CASE WHEN given = '' THEN '' ELSE realtime.decode_name(given) END);
    EXCEPTION WHEN OTHERS THEN
      RETURN format('%s is no value for %s: %s', quote_literal(given), split_part(pair, '=', 1), SQLERRM);
    END;
    IF spelt IS DISTINCT FROM (CASE WHEN given = '' THEN '' ELSE realtime.decode_name(given) END) THEN
      RETURN format('write %s for %s, as the type of %s does', quote_literal(realtime.encode_name(spelt)), quote_literal(given), split_part(pair, '=', 1));
    END IF;
  END LOOP;
  RETURN NULL;
END $f$;

CREATE OR REPLACE FUNCTION realtime.refuse_policy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $f$
DECLARE
  actions CONSTANT text[] := '{subscribe,snapshot,publish,presence}';
  wrong text := CASE
    WHEN NEW.roles = '{}' THEN 'no role has it: write null for anybody, and {*} for any token'
    WHEN array_position(NEW.roles, NULL) IS NOT NULL OR '*' = ANY (NEW.roles) AND cardinality(NEW.roles) > 1 THEN 'roles are names of roles, or {*} alone for any token'
    WHEN jsonb_typeof(NEW.claims) <> 'object' THEN 'claims is a JSON object, such as {"org": 7}'
    WHEN NEW.may = '{}' OR array_position(NEW.may, NULL) IS NOT NULL OR NOT NEW.may <@ actions
      THEN format('may is one or more of %s', array_to_string(actions, ', ')) END;
BEGIN
  IF wrong IS NOT NULL THEN
    RAISE EXCEPTION 'realtime: policy % can''t be meant: %', quote_literal(NEW.name), wrong USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM realtime.refuse_pattern(NEW.channel);
  RETURN NEW;
END $f$;

CREATE OR REPLACE TRIGGER refuse BEFORE INSERT OR UPDATE ON realtime.policies FOR EACH ROW EXECUTE FUNCTION realtime.refuse_policy();
CREATE OR REPLACE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON realtime.policies
  FOR EACH STATEMENT EXECUTE FUNCTION realtime.policies_changed();
CREATE OR REPLACE TRIGGER announce AFTER INSERT ON realtime.revocations REFERENCING NEW TABLE AS added
  FOR EACH STATEMENT EXECUTE FUNCTION realtime.revocations_added();
CREATE OR REPLACE TRIGGER announce_other AFTER UPDATE ON realtime.revocations FOR EACH STATEMENT EXECUTE FUNCTION realtime.policies_changed();
-- Sessions that replicate fire them too.
ALTER TABLE realtime.policies ENABLE ALWAYS TRIGGER refuse, ENABLE ALWAYS TRIGGER announce;
ALTER TABLE realtime.revocations ENABLE ALWAYS TRIGGER announce, ENABLE ALWAYS TRIGGER announce_other;
