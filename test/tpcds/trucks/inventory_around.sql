-- Where has the stock hardly changed around a date?  Quantities within 30 days before and after it,
-- by warehouse and item.  inventory is partitioned.
CREATE VIEW question.inventory_around AS
SELECT w_warehouse_name, i_item_id, sum(before) AS before, sum(after) AS after
FROM (SELECT inv_warehouse_sk, inv_item_sk,
		CASE WHEN d_date < '2000-04-01' THEN inv_quantity_on_hand ELSE 0 END AS before,
		CASE WHEN d_date >= '2000-04-01' THEN inv_quantity_on_hand ELSE 0 END AS after
	FROM inventory
	JOIN date_dim ON d_date_sk = inv_date_sk
	WHERE d_date BETWEEN '2000-03-02' AND '2000-05-01' AND inv_quantity_on_hand IS NOT NULL) AS i
JOIN item ON i_item_sk = inv_item_sk
JOIN warehouse ON w_warehouse_sk = inv_warehouse_sk
GROUP BY w_warehouse_name, i_item_id
HAVING sum(before) > 0 AND sum(after) BETWEEN sum(before) * 2 / 3 AND sum(before) * 3 / 2;

CREATE TABLE kept.inventory_around (warehouse_name varchar(20), item_id char(16), before bigint NOT NULL, after bigint NOT NULL, rows bigint NOT NULL,
	PRIMARY KEY (warehouse_name, item_id));
CREATE VIEW answer.inventory_around AS
SELECT warehouse_name, item_id, before, after FROM kept.inventory_around WHERE before > 0 AND after BETWEEN before * 2 / 3 AND before * 3 / 2;

SELECT trucker.create_truck('inventory_around', '{inventory}', input_sql => $$
	SELECT w_warehouse_name AS warehouse_name, i_item_id AS item_id, sum(sign) AS rows,
		sum(CASE WHEN d_date < '2000-04-01' THEN sign * quantity ELSE 0 END) AS before,
		sum(CASE WHEN d_date >= '2000-04-01' THEN sign * quantity ELSE 0 END) AS after
	FROM (SELECT 1 AS sign, inv_date_sk AS date_sk, inv_item_sk AS item_sk, inv_warehouse_sk AS warehouse_sk, inv_quantity_on_hand AS quantity
			FROM r WHERE meta__operation <> 'delete'
		UNION ALL
		SELECT -1, old__inv_date_sk, old__inv_item_sk, old__inv_warehouse_sk, old__inv_quantity_on_hand
			FROM r WHERE meta__operation <> 'insert') AS c
	JOIN date_dim ON d_date_sk = date_sk
	JOIN item ON i_item_sk = item_sk
	JOIN warehouse ON w_warehouse_sk = warehouse_sk
	WHERE d_date BETWEEN '2000-03-02' AND '2000-05-01' AND quantity IS NOT NULL
	GROUP BY w_warehouse_name, i_item_id
$$, output_sql => $$
	INSERT INTO kept.inventory_around AS t SELECT warehouse_name, item_id, before, after, rows FROM r
	ON CONFLICT (warehouse_name, item_id) DO UPDATE
	SET before = t.before + excluded.before, after = t.after + excluded.after, rows = t.rows + excluded.rows;
	DELETE FROM kept.inventory_around AS k USING r
	WHERE (k.warehouse_name, k.item_id) = (r.warehouse_name, r.item_id) AND k.rows = 0
$$, options => '{"stream": "dsp", "reset_sql": "DELETE FROM kept.inventory_around"}');
