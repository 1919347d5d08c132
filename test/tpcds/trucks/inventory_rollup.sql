-- How much is on hand on average, by category, class, brand and product, and in total?  A rollup:
-- each change counts in each of its levels.  level says how many columns are rolled up.
CREATE VIEW question.inventory_rollup AS
SELECT grouping(i_category_id, i_class_id, i_brand_id, product) AS level, coalesce(i_category_id, 0) AS category_id, coalesce(i_class_id, 0) AS class_id,
	coalesce(i_brand_id, 0) AS brand_id, coalesce(product, '') AS product, round(avg(inv_quantity_on_hand), 6) AS quantity, count(*) AS rows
FROM inventory
JOIN (SELECT i_item_sk, i_category_id, i_class_id, i_brand_id, coalesce(i_product_name, 'none')::text AS product FROM item) AS item ON i_item_sk = inv_item_sk
WHERE inv_quantity_on_hand IS NOT NULL
GROUP BY ROLLUP (i_category_id, i_class_id, i_brand_id, product)
HAVING count(*) > 0;

CREATE TABLE kept.inventory_rollup (level integer, category_id integer, class_id integer, brand_id integer, product text, quantity numeric NOT NULL, rows bigint NOT NULL,
	PRIMARY KEY (level, category_id, class_id, brand_id, product));
CREATE VIEW answer.inventory_rollup AS
SELECT level, category_id, class_id, brand_id, product, round(quantity / rows, 6) AS quantity, rows FROM kept.inventory_rollup WHERE rows <> 0;

SELECT trucker.create_truck('inventory_rollup', '{inventory}', input_sql => $$
	SELECT grouping(i_category_id, i_class_id, i_brand_id, product) AS level, coalesce(i_category_id, 0) AS category_id, coalesce(i_class_id, 0) AS class_id,
		coalesce(i_brand_id, 0) AS brand_id, coalesce(product, '') AS product, sum(sign * quantity) AS quantity, sum(sign) AS rows
	FROM (SELECT 1 AS sign, inv_item_sk AS item_sk, inv_quantity_on_hand AS quantity FROM r WHERE meta__operation <> 'delete'
		UNION ALL
		SELECT -1, old__inv_item_sk, old__inv_quantity_on_hand FROM r WHERE meta__operation <> 'insert') AS c
	JOIN (SELECT i_item_sk, i_category_id, i_class_id, i_brand_id, coalesce(i_product_name, 'none')::text AS product FROM item) AS item ON i_item_sk = item_sk
	WHERE quantity IS NOT NULL
	GROUP BY ROLLUP (i_category_id, i_class_id, i_brand_id, product)
	HAVING count(*) > 0
$$, output_sql => $$
	INSERT INTO kept.inventory_rollup AS t SELECT level, category_id, class_id, brand_id, product, quantity, rows FROM r
	ON CONFLICT (level, category_id, class_id, brand_id, product) DO UPDATE SET quantity = t.quantity + excluded.quantity, rows = t.rows + excluded.rows;
	DELETE FROM kept.inventory_rollup AS k USING r
	WHERE (k.level, k.category_id, k.class_id, k.brand_id, k.product) = (r.level, r.category_id, r.class_id, r.brand_id, r.product) AND k.rows = 0
$$, options => '{"stream": "ds", "reset_sql": "DELETE FROM kept.inventory_rollup"}');
