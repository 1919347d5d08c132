-- check.sql: is each truck's table equal to its query over the source?  Each
-- comparison is one statement, so both sides are of one snapshot; run it while
-- nothing changes, after trucker.wait_for().

WITH source AS MATERIALIZED (
	SELECT a.aid, a.bid, c.city, a.abalance
	FROM pgbench_accounts AS a
	JOIN branch_city AS c USING (bid)
), different AS (
	(TABLE source EXCEPT ALL SELECT aid, bid, city, balance FROM flat_accounts)
	UNION ALL
	(SELECT aid, bid, city, balance FROM flat_accounts EXCEPT ALL TABLE source)
)
SELECT CASE n WHEN 0 THEN 'PASS' ELSE 'FAIL' END ||
	   format('  flat_accounts: %s rows, %s differ from the query over the source',
			  (SELECT count(*) FROM source), n)
FROM (SELECT count(*) AS n FROM different) AS d;

WITH source AS MATERIALIZED (
	SELECT bid, count(*) AS accounts, sum(abalance) AS balance
	FROM pgbench_accounts
	GROUP BY bid
), target AS MATERIALIZED (
	SELECT bid, accounts, balance
	FROM branch_totals
	WHERE accounts <> 0
), different AS (
	(TABLE source EXCEPT ALL TABLE target)
	UNION ALL
	(TABLE target EXCEPT ALL TABLE source)
)
SELECT CASE n WHEN 0 THEN 'PASS' ELSE 'FAIL' END ||
	   format('  branch_totals: %s rows, %s differ from the query over the source; %s accounts, balance %s',
			  (SELECT count(*) FROM source), n,
			  (SELECT sum(accounts) FROM target), (SELECT sum(balance) FROM target))
FROM (SELECT count(*) AS n FROM different) AS d;
