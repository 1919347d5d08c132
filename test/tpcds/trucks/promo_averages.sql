-- Averages of what was sold without a mail or an event, to households with few dependants: a
-- join of five tables, of which all but store_sales stay as they are in what is read of them.
CREATE VIEW question.promo_averages AS
SELECT i_item_id, count(*) AS lines, round(avg(ss_quantity), 6) AS quantity, round(avg(ss_list_price), 6) AS list_price,
	round(avg(ss_coupon_amt), 6) AS coupon_amt, round(avg(ss_sales_price), 6) AS sales_price
FROM store_sales
JOIN date_dim ON d_date_sk = ss_sold_date_sk
JOIN item ON i_item_sk = ss_item_sk
JOIN promotion ON p_promo_sk = ss_promo_sk
JOIN household_demographics ON hd_demo_sk = ss_hdemo_sk
WHERE d_year = 2000 AND (p_channel_email = 'N' OR p_channel_event = 'N') AND hd_dep_count <= 4
GROUP BY i_item_id;

CREATE TABLE kept.promo_sums (i_item_id char(16) PRIMARY KEY, lines bigint NOT NULL, quantity numeric, list_price numeric, coupon_amt numeric, sales_price numeric);
CREATE VIEW answer.promo_averages AS
SELECT i_item_id, lines, round(quantity / lines, 6) AS quantity, round(list_price / lines, 6) AS list_price,
	round(coupon_amt / lines, 6) AS coupon_amt, round(sales_price / lines, 6) AS sales_price
FROM kept.promo_sums;

SELECT trucker.create_truck('promo_averages', '{store_sales}', input_sql => $$
	SELECT i_item_id, sum(sign) AS lines, sum(sign * quantity) AS quantity, sum(sign * list_price) AS list_price,
		sum(sign * coupon_amt) AS coupon_amt, sum(sign * sales_price) AS sales_price
	FROM (SELECT 1 AS sign, ss_sold_date_sk AS date_sk, ss_item_sk AS item_sk, ss_promo_sk AS promo_sk, ss_hdemo_sk AS hdemo_sk,
				ss_quantity AS quantity, ss_list_price AS list_price, ss_coupon_amt AS coupon_amt, ss_sales_price AS sales_price
			FROM r WHERE meta__operation <> 'delete'
		UNION ALL
		SELECT -1, old__ss_sold_date_sk, old__ss_item_sk, old__ss_promo_sk, old__ss_hdemo_sk,
				old__ss_quantity, old__ss_list_price, old__ss_coupon_amt, old__ss_sales_price
			FROM r WHERE meta__operation <> 'insert') AS c
	JOIN date_dim ON d_date_sk = date_sk
	JOIN item ON i_item_sk = item_sk
	JOIN promotion ON p_promo_sk = promo_sk
	JOIN household_demographics ON hd_demo_sk = hdemo_sk
	WHERE d_year = 2000 AND (p_channel_email = 'N' OR p_channel_event = 'N') AND hd_dep_count <= 4
	GROUP BY i_item_id
$$, output_sql => $$
	INSERT INTO kept.promo_sums AS t SELECT i_item_id, lines, quantity, list_price, coupon_amt, sales_price FROM r
	ON CONFLICT (i_item_id) DO UPDATE SET lines = t.lines + excluded.lines, quantity = t.quantity + excluded.quantity,
		list_price = t.list_price + excluded.list_price, coupon_amt = t.coupon_amt + excluded.coupon_amt,
		sales_price = t.sales_price + excluded.sales_price;

	DELETE FROM kept.promo_sums WHERE lines = 0
$$, options => '{"stream": "dsp", "reset_sql": "DELETE FROM kept.promo_sums"}');
