-- sales and returns of one ticket, most of which is thought better of
\set lines random(1, 4)
\set customer random_zipfian(1, 400, 1.1)
SELECT load.did('savepoints');
BEGIN;
SELECT load.sell(4) AS t \gset
SAVEPOINT a;
UPDATE store_sales SET ss_net_paid = 99999, ss_store_sk = 1 WHERE ss_ticket_number = :t;
SELECT load.add_returns(:t, 100);
SAVEPOINT b;
DELETE FROM store_sales WHERE ss_ticket_number = :t;
ROLLBACK TO SAVEPOINT a;
UPDATE store_sales SET ss_customer_sk = :customer WHERE ss_ticket_number = :t;
SAVEPOINT c;
SELECT load.add_returns(:t, 70);
RELEASE SAVEPOINT c;
SAVEPOINT d;
DELETE FROM store_returns WHERE sr_ticket_number = :t;
ROLLBACK TO SAVEPOINT d;
COMMIT;
