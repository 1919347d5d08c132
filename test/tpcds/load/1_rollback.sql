-- all of it is for nothing
\set x random(1, 1000000)
SELECT load.did('rollback');
BEGIN;
SELECT load.lock_ticket(ticket), ticket AS t FROM load.hot(:x) AS ticket \gset
SELECT load.sell(4);
UPDATE store_sales SET ss_net_paid = -1 WHERE ss_ticket_number = :t;
DELETE FROM store_returns WHERE sr_ticket_number = :t;
UPDATE item SET i_manager_id = 99 WHERE i_item_sk = 1 + :x % 200;
ROLLBACK;
