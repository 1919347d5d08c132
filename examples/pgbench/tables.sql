-- tables.sql: what the two trucks read besides pgbench's tables, and what they write

-- A city for each branch, to have something to join with.
CREATE TABLE branch_city (
	bid  integer PRIMARY KEY,
	city text NOT NULL
);
INSERT INTO branch_city
SELECT bid, (ARRAY['Lisboa', 'Kraków', 'Malmö', 'Gent', 'Tartu'])[1 + bid % 5]
FROM pgbench_branches;

-- Numbers for accounts that churn.sql opens.
CREATE SEQUENCE new_account AS integer START 100000000;

-- An account that no load touches; latency.sql pays into it.
INSERT INTO pgbench_accounts (aid, bid, abalance) VALUES (0, 1, 0);

-- written by truck flat_accounts
CREATE TABLE flat_accounts (
	aid     integer PRIMARY KEY,
	bid     integer NOT NULL,
	city    text NOT NULL,
	balance integer NOT NULL
);

-- written by truck branch_totals
CREATE TABLE branch_totals (
	bid      integer PRIMARY KEY,
	accounts bigint NOT NULL,
	balance  bigint NOT NULL
);
