-- What is in stock?  Semi-additive: over items it is a sum, over dates it is the last count.  The
-- last count is looked up in the source, for each item and warehouse that a change names.
CREATE VIEW question.inventory_stock AS
SELECT inv_warehouse_sk, count(*) AS items, sum(inv_quantity_on_hand) AS quantity
FROM (SELECT DISTINCT ON (inv_item_sk, inv_warehouse_sk) inv_warehouse_sk, coalesce(inv_quantity_on_hand, 0) AS inv_quantity_on_hand
	FROM inventory ORDER BY inv_item_sk, inv_warehouse_sk, inv_date_sk DESC) AS last
GROUP BY inv_warehouse_sk;

CREATE TABLE kept.last_count (item_sk integer, warehouse_sk integer, quantity integer NOT NULL, PRIMARY KEY (item_sk, warehouse_sk));
CREATE TABLE answer.inventory_stock (warehouse_sk integer PRIMARY KEY, items bigint NOT NULL, quantity bigint NOT NULL);

SELECT trucker.create_truck('inventory_stock', '{inventory}', input_sql => $$
	SELECT inv_item_sk AS item_sk, inv_warehouse_sk AS warehouse_sk FROM r WHERE meta__operation <> 'delete'
	UNION
	SELECT old__inv_item_sk, old__inv_warehouse_sk FROM r WHERE meta__operation <> 'insert'
$$, output_sql => $$
	WITH gone AS (DELETE FROM kept.last_count AS k USING r WHERE (k.item_sk, k.warehouse_sk) = (r.item_sk, r.warehouse_sk) RETURNING k.*)
	INSERT INTO answer.inventory_stock AS t SELECT warehouse_sk, -count(*), -sum(quantity) FROM gone GROUP BY warehouse_sk
	ON CONFLICT (warehouse_sk) DO UPDATE SET items = t.items + excluded.items, quantity = t.quantity + excluded.quantity;

	WITH come AS (
		INSERT INTO kept.last_count
		SELECT item_sk, warehouse_sk, coalesce(quantity, 0)
		FROM r CROSS JOIN LATERAL (
			SELECT inv_quantity_on_hand AS quantity FROM inventory
			WHERE inv_item_sk = r.item_sk AND inv_warehouse_sk = r.warehouse_sk ORDER BY inv_date_sk DESC LIMIT 1) AS last
		RETURNING *)
	INSERT INTO answer.inventory_stock AS t SELECT warehouse_sk, count(*), sum(quantity) FROM come GROUP BY warehouse_sk
	ON CONFLICT (warehouse_sk) DO UPDATE SET items = t.items + excluded.items, quantity = t.quantity + excluded.quantity;
	DELETE FROM answer.inventory_stock WHERE items = 0
$$, options => '{"stream": "dsp", "reset_sql": "DELETE FROM answer.inventory_stock; DELETE FROM kept.last_count"}');
