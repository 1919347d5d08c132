-- latency.sql: changes one account and waits until its row in flat_accounts shows it.
-- Prints milliseconds from commit to visible, and by how many bytes of WAL each truck
-- was behind just before.

SELECT max(lag_bytes) FILTER (WHERE truck = 'flat_accounts') AS flat_lag,
	   max(lag_bytes) FILTER (WHERE truck = 'branch_totals') AS totals_lag
FROM trucker.status \gset

UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 0
RETURNING abalance AS paid \gset

SELECT clock_timestamp() AS committed \gset
SELECT trucker.wait_for('flat_accounts', timeout => '60 s') AS arrived \gset

SELECT CASE WHEN :'arrived' AND balance = :paid
		   THEN round(extract(epoch FROM clock_timestamp() - :'committed'::timestamptz) * 1000, 1)::text
		   ELSE 'MISSING' END,
	   :'flat_lag', :'totals_lag'
FROM flat_accounts
WHERE aid = 0;
