-- churn.sql: a pgbench script; what pgbench's own transactions never do to an account.
-- Numbers that are gone by now are no error.
\set closed random(1, 100000 * :scale)
\set moved random(1, 100000 * :scale)
\set renumbered random(1, 100000 * :scale)
\set bid random(1, :scale)
BEGIN;
DELETE FROM pgbench_accounts WHERE aid = :closed;
INSERT INTO pgbench_accounts (aid, bid, abalance, filler) VALUES (nextval('new_account'), :bid, 100, '');
UPDATE pgbench_accounts SET bid = :bid WHERE aid = :moved;
UPDATE pgbench_accounts SET aid = nextval('new_account') WHERE aid = :renumbered;
END;
