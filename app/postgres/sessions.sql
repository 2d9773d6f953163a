-- name: plan_for_event_log
-- Fresh partitions have no statistics: a read of the event log always goes by its index, row by row, and stops early.
SELECT set_config(s.name, s.value, false)
FROM (VALUES
  ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'),
  ('plan_cache_mode', 'force_generic_plan'), ('max_parallel_workers_per_gather', '0')
) s(name, value)
