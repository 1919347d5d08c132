-- a warehouse counts a week's stock: rows come, go, are corrected, and are moved to another week, which may be in another partition
\set warehouse random(1, 5)
\set week random(0, 25)
\set to random(0, 25)
\set first random(1, 170)
\set quantity random(0, 1000)
SELECT load.did('count');
BEGIN;
SELECT load.lock_warehouse(:warehouse);
INSERT INTO inventory (inv_date_sk, inv_item_sk, inv_warehouse_sk, inv_quantity_on_hand)
SELECT load.week(:week), item, :warehouse, :quantity + item FROM generate_series(:first, :first + 20) AS item
ON CONFLICT (inv_date_sk, inv_item_sk, inv_warehouse_sk) DO UPDATE SET inv_quantity_on_hand = excluded.inv_quantity_on_hand;
DELETE FROM inventory WHERE inv_date_sk = load.week(:week) AND inv_warehouse_sk = :warehouse AND inv_item_sk BETWEEN :first AND :first + 9 AND inv_item_sk % 2 = 1;
UPDATE inventory AS i SET inv_date_sk = load.week(:to)
WHERE inv_date_sk = load.week(:week) AND inv_warehouse_sk = :warehouse AND inv_item_sk BETWEEN :first + 10 AND :first + 14
	AND NOT EXISTS (SELECT FROM inventory AS o WHERE (o.inv_date_sk, o.inv_item_sk, o.inv_warehouse_sk) = (load.week(:to), i.inv_item_sk, :warehouse));
COMMIT;
