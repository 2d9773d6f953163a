-- name: state_table
-- Which event log this is: the oid of its table of state, which a restore from a dump makes anew.
SELECT f.tableoid::bigint FROM realtime.event_log_state f
