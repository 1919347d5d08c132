SELECT meta__table AS table_name, meta__operation AS operation, meta__committed_at AS committed_at,
	meta__lsn::text AS lsn, meta__seq AS seq, coalesce(id, old__id) AS order_id,
	CASE WHEN meta__operation <> 'insert' THEN old__state END AS old_state,
	CASE WHEN meta__operation <> 'delete' THEN state END AS new_state
FROM r
