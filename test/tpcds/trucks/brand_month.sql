-- What did each brand sell in each month?  A sum kept by adding new values and taking off old
-- ones.  The dimensions are read as they are now: an item's brand and a date's month never change.
CREATE VIEW question.brand_month AS
SELECT d_year, d_moy, i_brand_id, sum(coalesce(ss_ext_sales_price, 0)) AS amount, count(*) AS lines
FROM store_sales
JOIN date_dim ON d_date_sk = ss_sold_date_sk
JOIN item ON i_item_sk = ss_item_sk
GROUP BY d_year, d_moy, i_brand_id;

CREATE TABLE answer.brand_month (d_year integer, d_moy integer, i_brand_id integer, amount numeric NOT NULL, lines bigint NOT NULL,
	PRIMARY KEY (d_year, d_moy, i_brand_id));
ALTER TABLE answer.brand_month REPLICA IDENTITY FULL;	-- brand_year reads it

SELECT trucker.create_truck('brand_month', '{store_sales}', input_sql => $$
	SELECT d_year, d_moy, i_brand_id, sum(amount) AS amount, sum(lines) AS lines
	FROM (SELECT ss_sold_date_sk AS date_sk, ss_item_sk AS item_sk, coalesce(ss_ext_sales_price, 0) AS amount, 1 AS lines
			FROM r WHERE meta__operation <> 'delete'
		UNION ALL
		SELECT old__ss_sold_date_sk, old__ss_item_sk, -coalesce(old__ss_ext_sales_price, 0), -1
			FROM r WHERE meta__operation <> 'insert') AS c
	JOIN date_dim ON d_date_sk = date_sk
	JOIN item ON i_item_sk = item_sk
	GROUP BY d_year, d_moy, i_brand_id
$$, output_sql => $$
	INSERT INTO answer.brand_month AS t SELECT d_year, d_moy, i_brand_id, amount, lines FROM r
	ON CONFLICT (d_year, d_moy, i_brand_id) DO UPDATE SET amount = t.amount + excluded.amount, lines = t.lines + excluded.lines;

	DELETE FROM answer.brand_month WHERE lines = 0
$$, options => '{"stream": "ds", "reset_sql": "DELETE FROM answer.brand_month"}');
