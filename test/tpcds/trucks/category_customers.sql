-- How many customers has each category had in each month?  Distinct counts: how often each customer
-- is there is kept, and those who come or go count.  It is all the same in which order a batch's
-- changes come, so a row that changes ten times comes once.
CREATE VIEW question.category_customers AS
SELECT i_category_id, d_year, d_moy, count(DISTINCT ss_customer_sk) AS customers
FROM store_sales
JOIN date_dim ON d_date_sk = ss_sold_date_sk
JOIN item ON i_item_sk = ss_item_sk
WHERE ss_customer_sk IS NOT NULL
GROUP BY i_category_id, d_year, d_moy;

CREATE TABLE kept.category_customer (category_id integer, d_year integer, d_moy integer, customer_sk integer, lines bigint NOT NULL,
	PRIMARY KEY (category_id, d_year, d_moy, customer_sk));
CREATE TABLE answer.category_customers (category_id integer, d_year integer, d_moy integer, customers bigint NOT NULL, PRIMARY KEY (category_id, d_year, d_moy));

SELECT trucker.create_truck('category_customers', '{store_sales}', input_sql => $$
	SELECT i_category_id AS category_id, d_year, d_moy, customer_sk, sum(lines) AS lines
	FROM (SELECT ss_item_sk AS item_sk, ss_sold_date_sk AS date_sk, ss_customer_sk AS customer_sk, 1 AS lines
			FROM r WHERE meta__operation <> 'delete'
		UNION ALL
		SELECT old__ss_item_sk, old__ss_sold_date_sk, old__ss_customer_sk, -1 FROM r WHERE meta__operation <> 'insert') AS c
	JOIN date_dim ON d_date_sk = date_sk
	JOIN item ON i_item_sk = item_sk
	WHERE customer_sk IS NOT NULL
	GROUP BY i_category_id, d_year, d_moy, customer_sk
	HAVING sum(lines) <> 0
$$, output_sql => $$
	WITH k AS (
		INSERT INTO kept.category_customer AS t SELECT category_id, d_year, d_moy, customer_sk, lines FROM r
		ON CONFLICT (category_id, d_year, d_moy, customer_sk) DO UPDATE SET lines = t.lines + excluded.lines
		RETURNING *),
	d AS (
		SELECT category_id, d_year, d_moy, sum((k.lines > 0)::integer - (k.lines - r.lines > 0)::integer) AS customers
		FROM k JOIN r USING (category_id, d_year, d_moy, customer_sk)
		GROUP BY category_id, d_year, d_moy)
	INSERT INTO answer.category_customers AS t SELECT category_id, d_year, d_moy, customers FROM d WHERE customers <> 0
	ON CONFLICT (category_id, d_year, d_moy) DO UPDATE SET customers = t.customers + excluded.customers;

	DELETE FROM kept.category_customer AS k USING r
	WHERE (k.category_id, k.d_year, k.d_moy, k.customer_sk) = (r.category_id, r.d_year, r.d_moy, r.customer_sk) AND k.lines = 0;
	DELETE FROM answer.category_customers WHERE customers = 0
$$, options => '{"stream": "dsp", "changes": "net", "reset_sql": "DELETE FROM answer.category_customers; DELETE FROM kept.category_customer"}');
