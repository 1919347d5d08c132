-- in two phases, most of which are committed; those that a crash leaves are ended by the test
\set lines random(1, 4)
\set x random(1, 1000000)
\set gid random(1, 1000000000000)
\set commits random(0, 3)
SELECT load.did('prepared');
BEGIN;
SELECT load.sell(:lines);
SELECT load.lock_ticket(ticket), ticket AS t FROM load.hot(:x) AS ticket \gset
SELECT load.add_returns(:t, 80);
UPDATE store_sales SET ss_quantity = ss_quantity + 1 WHERE ss_ticket_number = :t;
PREPARE TRANSACTION 'tpcds :gid';
\if :commits
COMMIT PREPARED 'tpcds :gid';
\else
ROLLBACK PREPARED 'tpcds :gid';
\endif
