-- trucks.sql: the two trucks

-- A flat table: one row an account, with its branch's city.  input_sql joins, and
-- output_sql writes what input_sql returned, which is what it sees as r.
SELECT trucker.create_truck(
	'flat_accounts',
	'{pgbench_accounts}',
	input_sql => $$
		SELECT r.meta__operation, r.old__aid, r.aid, r.bid, c.city, r.abalance
		FROM {{ .rows }} AS r
		LEFT JOIN branch_city AS c USING (bid)
	$$,
	output_sql => $$
		-- closed accounts, and the old numbers of renumbered ones
		DELETE FROM flat_accounts AS f
		USING r
		WHERE f.aid = r.old__aid
		  AND (r.meta__operation = 'delete' OR r.aid <> r.old__aid);

		INSERT INTO flat_accounts AS f (aid, bid, city, balance)
		SELECT aid, bid, city, abalance
		FROM r
		WHERE meta__operation IN ('insert', 'update')
		ON CONFLICT (aid) DO UPDATE
		SET (bid, city, balance) = (excluded.bid, excluded.city, excluded.balance);
	$$);

-- Totals per branch, kept by adding what each change adds: the new values count
-- plus, the old values minus.  Each change must have arrived once, no more, no less.
-- It takes the old values of columns outside the primary key, hence:
ALTER TABLE pgbench_accounts REPLICA IDENTITY FULL;

SELECT trucker.create_truck(
	'branch_totals',
	'{pgbench_accounts}',
	output_sql => $$
		INSERT INTO branch_totals AS t (bid, accounts, balance)
		SELECT bid, sum(accounts), sum(balance)
		FROM (
			SELECT bid, 1 AS accounts, abalance AS balance
			FROM r
			WHERE meta__operation IN ('insert', 'update')
			UNION ALL
			SELECT old__bid, -1, -old__abalance
			FROM r
			WHERE meta__operation IN ('update', 'delete')
		) AS change
		GROUP BY bid
		ON CONFLICT (bid) DO UPDATE
		SET accounts = t.accounts + excluded.accounts,
			balance = t.balance + excluded.balance;
	$$);

SELECT trucker.start();
