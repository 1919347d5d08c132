-- The generator: rows are functions of their numbers and of a seed, so the same seed makes the
-- same rows everywhere.  All is made up here; nothing is from TPC's own generator.
--
-- Needs psql variables:  seed   a number
--                        scale  1: 1,500 tickets with 6,000 lines, 13,000 rows of inventory
CREATE SCHEMA load;
CREATE TABLE load.setting (scale integer NOT NULL);
INSERT INTO load.setting VALUES (:scale);

-- a number from 0 to below - 1 for the n-th thing of a kind
-- (made with the seed in it, so that the server can put the expression in the place of the call)
SELECT format($$
	CREATE FUNCTION load.draw(kind text, n bigint, below integer) RETURNS integer
	LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
		'SELECT mod((''x'' || substr(md5(''%s '' || kind || '' '' || n::text), 1, 8))::bit(32)::bigint, below)::integer'
$$, :seed) \gexec

-- the n-th date of inventory; weeks from 0 on
CREATE FUNCTION load.week(n bigint) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT (2451550 + 7 * n)::integer $$;

INSERT INTO date_dim (d_date_sk, d_date_id, d_date, d_month_seq, d_week_seq, d_quarter_seq, d_year, d_dow, d_moy,
	d_dom, d_qoy, d_day_name, d_quarter_name, d_holiday, d_weekend, d_first_dom, d_last_dom)
SELECT to_char(d, 'J')::integer, 'D' || lpad(to_char(d, 'J'), 15, '0'), d, (y - 1900) * 12 + m - 1,
	(to_char(d, 'J')::integer - 2415022) / 7 + 1, (y - 1900) * 4 + (m - 1) / 3 + 1, y, extract(dow FROM d), m,
	extract(day FROM d), (m - 1) / 3 + 1, trim(to_char(d, 'Day')), y || 'Q' || (m - 1) / 3 + 1,
	CASE WHEN (m, extract(day FROM d)) IN ((1, 1), (12, 25)) THEN 'Y' ELSE 'N' END,
	CASE WHEN extract(dow FROM d) IN (0, 6) THEN 'Y' ELSE 'N' END,
	to_char(date_trunc('month', d), 'J')::integer, to_char(date_trunc('month', d) + interval '1 month - 1 day', 'J')::integer
FROM (SELECT d::date, extract(year FROM d)::integer AS y, extract(month FROM d)::integer AS m
	FROM generate_series('2000-01-01'::date, '2001-12-31', '1 day') AS d) AS day;

-- add_items(first, last): an item's category, class and brand never change; two items share an i_item_id
CREATE FUNCTION load.add_items(first integer, last integer) RETURNS void
LANGUAGE sql AS $$
	INSERT INTO item (i_item_sk, i_item_id, i_rec_start_date, i_item_desc, i_current_price, i_wholesale_cost,
		i_brand_id, i_brand, i_class_id, i_class, i_category_id, i_category, i_manufact_id, i_manufact, i_size, i_color,
		i_units, i_container, i_manager_id, i_product_name)
	SELECT n, 'I' || lpad((n / 2)::text, 15, '0'), '1999-01-01', 'item ' || n || repeat(' words', load.draw('words', n, 25)),
		5 + load.draw('price', n, 15000) / 100.0, 3 + load.draw('cost', n, 8000) / 100.0,
		brand, 'brand ' || brand, class, 'class ' || class, category,
		(ARRAY['Books', 'Children', 'Electronics', 'Home', 'Jewelry', 'Men', 'Music', 'Shoes', 'Sports', 'Women'])[category],
		1 + load.draw('manufact', n, 40), 'maker ' || load.draw('manufact', n, 40), 'medium', 'blue', 'Each', 'Unknown',
		1 + load.draw('manager', n, 12), nullif('product ' || n, 'product ' || n / 25 * 25)
	FROM (SELECT n, category, category * 10 + class AS class, (category * 10 + class) * 10 + load.draw('brand', n, 2) AS brand
		FROM (SELECT n, 1 + load.draw('category', n, 10) AS category, load.draw('class', n, 3) AS class
			FROM generate_series(first, last) AS n) AS a) AS b
$$;
SELECT load.add_items(1, 200);

INSERT INTO customer_address (ca_address_sk, ca_address_id, ca_street_number, ca_street_name, ca_city, ca_county, ca_state, ca_zip, ca_country, ca_gmt_offset)
SELECT n, 'A' || lpad(n::text, 15, '0'), load.draw('number', n, 900), 'street ' || load.draw('street', n, 90), 'city ' || load.draw('city', n, 40),
	'county ' || load.draw('county', n, 20), (ARRAY['CA', 'GA', 'NY', 'TN', 'TX', 'WA'])[1 + load.draw('state', n, 6)],
	lpad(load.draw('zip', n, 99999)::text, 5, '0'), 'United States', -5 - load.draw('zone', n, 4)
FROM generate_series(1, 300) AS n;

INSERT INTO household_demographics
SELECT n, 1 + n % 20, (ARRAY['0-500', '501-1000', '1001-5000', '5001-10000', '>10000', 'Unknown'])[1 + n % 6], n % 10, n % 5 - 1
FROM generate_series(1, 72) AS n;

CREATE FUNCTION load.add_customers(first integer, last integer) RETURNS void
LANGUAGE sql AS $$
	INSERT INTO customer (c_customer_sk, c_customer_id, c_current_hdemo_sk, c_current_addr_sk, c_first_name, c_last_name,
		c_preferred_cust_flag, c_birth_day, c_birth_month, c_birth_year, c_birth_country, c_email_address)
	SELECT n, 'C' || lpad(n::text, 15, '0'), 1 + load.draw('household', n, 72), nullif(load.draw('address', n, 301), 0),
		'first ' || load.draw('first', n, 60), 'last ' || load.draw('last', n, 150), (ARRAY['Y', 'N', NULL])[1 + load.draw('flag', n, 3)],
		1 + load.draw('day', n, 28), 1 + load.draw('month', n, 12), 1930 + load.draw('year', n, 70), 'COUNTRY', n || '@example.org'
	FROM generate_series(first, last) AS n
$$;
SELECT load.add_customers(1, 400);

INSERT INTO store (s_store_sk, s_store_id, s_store_name, s_number_employees, s_market_id, s_city, s_state, s_country, s_tax_precentage)
SELECT n, 'S' || lpad(n::text, 15, '0'), 'store ' || n, 200 + n, n, 'city ' || n, (ARRAY['TN', 'CA', 'TX'])[1 + n % 3], 'United States', 0.05
FROM generate_series(1, 8) AS n;

INSERT INTO warehouse (w_warehouse_sk, w_warehouse_id, w_warehouse_name, w_warehouse_sq_ft, w_state, w_country)
SELECT n, 'W' || lpad(n::text, 15, '0'), 'warehouse ' || n, 100000 * n, 'TN', 'United States' FROM generate_series(1, 5) AS n;

INSERT INTO promotion (p_promo_sk, p_promo_id, p_item_sk, p_cost, p_response_target, p_promo_name, p_channel_dmail, p_channel_email, p_channel_event)
SELECT n, 'P' || lpad(n::text, 15, '0'), 1 + load.draw('promoted', n, 200), 1000, 1, 'promotion ' || n,
	'Y', CASE WHEN n % 3 = 0 THEN 'Y' ELSE 'N' END, CASE WHEN n % 2 = 0 THEN 'Y' ELSE 'N' END
FROM generate_series(1, 20) AS n;

-- add_sales(ticket, lines): a ticket, with 1 to 4 lines; some items and customers are hot, and
-- dates, customers, stores, promotions and prices are NULL here and there
CREATE FUNCTION load.add_sales(ticket bigint, lines integer) RETURNS void
LANGUAGE sql AS $$
	INSERT INTO store_sales (ss_sold_date_sk, ss_item_sk, ss_customer_sk, ss_hdemo_sk, ss_addr_sk, ss_store_sk, ss_promo_sk,
		ss_ticket_number, ss_quantity, ss_wholesale_cost, ss_list_price, ss_sales_price, ss_ext_discount_amt, ss_ext_sales_price,
		ss_ext_wholesale_cost, ss_ext_list_price, ss_ext_tax, ss_coupon_amt, ss_net_paid, ss_net_paid_inc_tax, ss_net_profit)
	SELECT date_sk, item_sk, customer_sk, 1 + load.draw('hdemo', ticket, 72), nullif(load.draw('addr', ticket, 301), 0), store_sk,
		nullif(load.draw('promo', n, 31) % 21, 0),
		ticket, quantity, cost, price, sold, quantity * (price - sold), nullif(quantity * sold, 100), quantity * cost, quantity * price,
		round(quantity * sold * 0.05, 2), coupon, quantity * sold - coupon, round(quantity * sold * 1.05, 2) - coupon,
		quantity * (sold - cost) - coupon
	FROM (SELECT *, round(price * (1 - load.draw('discount', n, 60) / 100.0), 2) AS sold,
			CASE load.draw('has coupon', n, 5) WHEN 0 THEN load.draw('coupon', n, 500) / 100.0 ELSE 0 END AS coupon
		FROM (SELECT *, round(cost * (1 + load.draw('markup', n, 100) / 100.0), 2) AS price
			FROM (SELECT n,
					2451545 + nullif(load.draw('date', ticket, 365), 0) AS date_sk,
					1 + (least(load.draw('item', ticket, 200), load.draw('hot item', ticket, 200)) + line * 37) % 200 AS item_sk,
					nullif(least(load.draw('customer', ticket, 401), load.draw('hot customer', ticket, 401)), 0) AS customer_sk,
					nullif(load.draw('store', ticket, 9), 0) AS store_sk,
					1 + load.draw('quantity', n, 40) AS quantity,
					1 + load.draw('wholesale', n, 9000) / 100.0 AS cost
				FROM (SELECT line, ticket * 4 + line AS n FROM generate_series(0, lines - 1) AS line) AS l) AS a) AS b) AS c
$$;

-- add_returns(ticket, share): some of the lines of a ticket come back
CREATE FUNCTION load.add_returns(ticket bigint, share integer) RETURNS void
LANGUAGE sql AS $$
	INSERT INTO store_returns (sr_returned_date_sk, sr_item_sk, sr_customer_sk, sr_hdemo_sk, sr_addr_sk, sr_store_sk, sr_reason_sk,
		sr_ticket_number, sr_return_quantity, sr_return_amt, sr_return_tax, sr_return_amt_inc_tax, sr_fee, sr_net_loss)
	SELECT ss_sold_date_sk + load.draw('days', ticket, 90), ss_item_sk, ss_customer_sk, ss_hdemo_sk, ss_addr_sk, ss_store_sk,
		1 + load.draw('reason', ticket, 30), ticket, quantity, round(quantity * ss_sales_price, 2), round(quantity * ss_sales_price * 0.05, 2),
		round(quantity * ss_sales_price * 1.05, 2), load.draw('fee', ticket, 1000) / 100.0,
		round(quantity * ss_sales_price * 0.05, 2) + load.draw('loss', ticket, 1000) / 100.0
	FROM (SELECT *, 1 + load.draw('return quantity', ss_ticket_number * 201 + ss_item_sk, ss_quantity) AS quantity FROM store_sales) AS s
	WHERE ss_ticket_number = ticket AND load.draw('returned', ticket * 201 + ss_item_sk, 100) < share
	ORDER BY ss_item_sk
	ON CONFLICT DO NOTHING
$$;

-- add_inventory(first week, last week, one item of how many)
CREATE FUNCTION load.add_inventory(first integer, last integer, every integer) RETURNS void
LANGUAGE sql AS $$
	INSERT INTO inventory (inv_date_sk, inv_item_sk, inv_warehouse_sk, inv_quantity_on_hand)
	SELECT load.week(week), item, warehouse, nullif(load.draw('stock', (week * 1000 + item) * 10 + warehouse, 1000), 0)
	FROM generate_series(first, last) AS week, generate_series(every, 200, every) AS item, generate_series(1, 5) AS warehouse
	ORDER BY 1, 2, 3
	ON CONFLICT DO NOTHING
$$;

SELECT count(load.add_sales(ticket, 4)) FROM generate_series(1, 1500 * :scale) AS ticket;
SELECT count(load.add_returns(ticket, 60)) FROM generate_series(1, 1500 * :scale, 3) AS ticket;
CREATE SEQUENCE load.ticket;
SELECT setval('load.ticket', 1500 * :scale);
CREATE SEQUENCE load.new_item START 10001;

-- Weeks 0 to 25 are always there; the ones behind come and go (see load.switch_partition).
CREATE TABLE inventory_1 PARTITION OF inventory FOR VALUES FROM (0) TO (2451641);		-- weeks 0 to 12
-- its columns lie elsewhere, as those of a table that was attached may
CREATE TABLE inventory_2 (inv_quantity_on_hand integer, gone text, inv_warehouse_sk integer NOT NULL, inv_item_sk integer NOT NULL, inv_date_sk integer NOT NULL);
ALTER TABLE inventory_2 DROP COLUMN gone;
ALTER TABLE inventory ATTACH PARTITION inventory_2 FOR VALUES FROM (2451641) TO (2451732);	-- weeks 13 to 25
ALTER TABLE inventory_1 REPLICA IDENTITY FULL;
ALTER TABLE inventory_2 REPLICA IDENTITY FULL;
SELECT load.add_inventory(0, 25, 2 / least(:scale, 2));
ANALYZE;
