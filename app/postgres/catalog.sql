-- name: generations
-- The generations that are asked for, and all that are newer than the newest known.
SELECT g.gen, g.relid::bigint, g.schema, g.name, g.key, g.routes, g.vals, g.types,
       array_to_string(g.json_types, ''), array_position(g.spellings[1:cardinality(g.key)], NULL) IS NULL, g.xid, g.ended
FROM realtime.generations g WHERE g.gen = ANY(%(gens)s::int[]) OR g.gen > %(above)s

-- name: current
-- The newest generation of a name.
SELECT g.gen, g.relid::bigint, g.schema, g.name, g.key, g.routes, g.vals, g.types,
       array_to_string(g.json_types, ''), array_position(g.spellings[1:cardinality(g.key)], NULL) IS NULL, g.xid, g.ended
FROM realtime.generations g WHERE g.schema = %(schema)s AND g.name = %(name)s ORDER BY g.gen DESC LIMIT 1

-- name: canonical
-- A value as realtime.canonical spells it. Raises what the type's input raises.
SELECT left(realtime.canonical(%(gen)s, %(column)s, %(value)s), %(most)s)
