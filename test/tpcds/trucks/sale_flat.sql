-- Where do the goods go?  A join of five tables, all of them inputs, as a flat table at another
-- server (answer.sale_flat there).  A dimension that changes brings all its sales anew, as they are
-- now: what has happened to these in between comes after it, once more.
CREATE VIEW question.sale_flat AS
SELECT ss_item_sk, ss_ticket_number, c_last_name, c_first_name, ca_city, ca_state, hd_buy_potential, s_store_name, ss_quantity, ss_net_paid
FROM store_sales
LEFT JOIN customer ON c_customer_sk = ss_customer_sk
LEFT JOIN customer_address ON ca_address_sk = c_current_addr_sk
LEFT JOIN household_demographics ON hd_demo_sk = ss_hdemo_sk
LEFT JOIN store ON s_store_sk = ss_store_sk;

SELECT trucker.create_truck('sale_flat', '{store_sales, customer, customer_address, household_demographics, store}',
output_connection => 'warehouse_server', input_sql => $$
	{{ if eq .input_table "tpcds.store_sales" }}
	SELECT s.old__ss_item_sk AS old_item_sk, s.old__ss_ticket_number AS old_ticket_number,
	{{ else }}
	SELECT NULL::integer AS old_item_sk, NULL::bigint AS old_ticket_number,
	{{ end }}
		s.ss_item_sk, s.ss_ticket_number, c_last_name, c_first_name, ca_city, ca_state, hd_buy_potential, s_store_name,
		s.ss_quantity, s.ss_net_paid
	FROM {{ if eq .input_table "tpcds.store_sales" }} r {{ else }} store_sales {{ end }} AS s
	LEFT JOIN customer AS c ON c.c_customer_sk = s.ss_customer_sk
	LEFT JOIN customer_address AS a ON a.ca_address_sk = c.c_current_addr_sk
	LEFT JOIN household_demographics AS h ON h.hd_demo_sk = s.ss_hdemo_sk
	LEFT JOIN store AS o ON o.s_store_sk = s.ss_store_sk
	-- a row of a backfill brings nothing: the sales are loaded with the dimensions of the same snapshot
	{{ if eq .input_table "tpcds.customer" }}
	WHERE s.ss_customer_sk IN (SELECT coalesce(c_customer_sk, old__c_customer_sk) FROM r WHERE meta__xid IS NOT NULL)
	{{ else if eq .input_table "tpcds.customer_address" }}
	WHERE c.c_current_addr_sk IN (SELECT coalesce(ca_address_sk, old__ca_address_sk) FROM r WHERE meta__xid IS NOT NULL)
	{{ else if eq .input_table "tpcds.household_demographics" }}
	WHERE s.ss_hdemo_sk IN (SELECT coalesce(hd_demo_sk, old__hd_demo_sk) FROM r WHERE meta__xid IS NOT NULL)
	{{ else if eq .input_table "tpcds.store" }}
	WHERE s.ss_store_sk IN (SELECT coalesce(s_store_sk, old__s_store_sk) FROM r WHERE meta__xid IS NOT NULL)
	{{ end }}
$$, output_sql => $$
	DELETE FROM answer.sale_flat AS t USING r
	WHERE (t.ss_item_sk, t.ss_ticket_number) = (r.old_item_sk, r.old_ticket_number)
		AND (r.ss_item_sk, r.ss_ticket_number) IS DISTINCT FROM (r.old_item_sk, r.old_ticket_number);

	INSERT INTO answer.sale_flat
	SELECT ss_item_sk, ss_ticket_number, c_last_name, c_first_name, ca_city, ca_state, hd_buy_potential, s_store_name, ss_quantity, ss_net_paid
	FROM r WHERE ss_item_sk IS NOT NULL
	ON CONFLICT (ss_item_sk, ss_ticket_number) DO UPDATE
	SET (c_last_name, c_first_name, ca_city, ca_state, hd_buy_potential, s_store_name, ss_quantity, ss_net_paid) =
		(excluded.c_last_name, excluded.c_first_name, excluded.ca_city, excluded.ca_state, excluded.hd_buy_potential,
		 excluded.s_store_name, excluded.ss_quantity, excluded.ss_net_paid)
$$, options => '{"stream": "dsp", "reset_sql": "DELETE FROM answer.sale_flat"}');
