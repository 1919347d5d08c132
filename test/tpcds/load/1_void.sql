-- a ticket is taken back, with its returns; another one's number changes, and its returns lose their sale
\set x random(1, 1000000)
\set y random(1, 1000000)
SELECT load.did('void');
BEGIN;
SELECT least(a, b) AS a, greatest(a, b) AS b FROM load.hot(:x) AS a, load.hot(:y) AS b \gset
SELECT load.lock_ticket(:a);
SELECT load.lock_ticket(:b);
DELETE FROM store_returns WHERE sr_ticket_number = :a;
DELETE FROM store_sales WHERE ss_ticket_number = :a;
UPDATE store_sales AS s SET ss_ticket_number = -ss_ticket_number
WHERE ss_ticket_number IN (:b, -:b) AND NOT EXISTS (SELECT FROM store_sales AS o WHERE (o.ss_item_sk, o.ss_ticket_number) = (s.ss_item_sk, -s.ss_ticket_number));
COMMIT;
