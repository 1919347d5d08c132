-- A cascade: the years, from what the truck brand_month writes.
CREATE VIEW question.brand_year AS
SELECT d_year, i_brand_id, sum(coalesce(ss_ext_sales_price, 0)) AS amount, count(*) AS lines, count(DISTINCT d_moy) AS months
FROM store_sales
JOIN date_dim ON d_date_sk = ss_sold_date_sk
JOIN item ON i_item_sk = ss_item_sk
GROUP BY d_year, i_brand_id;

CREATE TABLE answer.brand_year (d_year integer, i_brand_id integer, amount numeric NOT NULL, lines bigint NOT NULL, months bigint NOT NULL,
	PRIMARY KEY (d_year, i_brand_id));

SELECT trucker.create_truck('brand_year', '{answer.brand_month}', $$
	INSERT INTO answer.brand_year AS t
	SELECT year, brand_id, sum(amount), sum(lines), sum(months)
	FROM (SELECT d_year AS year, i_brand_id AS brand_id, amount, lines, 1 AS months FROM r WHERE meta__operation <> 'delete'
		UNION ALL
		SELECT old__d_year, old__i_brand_id, -old__amount, -old__lines, -1 FROM r WHERE meta__operation <> 'insert') AS c
	GROUP BY year, brand_id
	ON CONFLICT (d_year, i_brand_id) DO UPDATE
	SET amount = t.amount + excluded.amount, lines = t.lines + excluded.lines, months = t.months + excluded.months;

	DELETE FROM answer.brand_year WHERE months = 0
$$, options => '{"stream": "ds", "reset_sql": "DELETE FROM answer.brand_year"}');
