-- a sale, and the stock that it leaves
\set lines random(1, 4)
\set week random(0, 30)
\set item random_zipfian(1, 100, 1.2) * 2
\set warehouse random(1, 5)
SELECT load.did('sell');
BEGIN;
SELECT load.lock_warehouse(:warehouse);
SELECT load.sell(:lines);
UPDATE inventory SET inv_quantity_on_hand = inv_quantity_on_hand - :lines
WHERE inv_date_sk = load.week(:week) AND inv_item_sk = :item AND inv_warehouse_sk = :warehouse;
COMMIT;
