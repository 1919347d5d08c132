-- How do quantities sold and returned spread, by category?  Both tables of facts are joined: pairs
-- are kept, those that a change touches are taken off the sums, looked up anew, and added again.
CREATE VIEW question.return_stats AS
SELECT i_category_id, count(*) AS pairs, round(avg(ss_quantity), 6) AS sold_avg, round(stddev_samp(ss_quantity), 6) AS sold_stddev,
	round(avg(sr_return_quantity), 6) AS returned_avg, round(stddev_samp(sr_return_quantity), 6) AS returned_stddev
FROM store_sales
JOIN store_returns ON (sr_item_sk, sr_ticket_number) = (ss_item_sk, ss_ticket_number)
JOIN item ON i_item_sk = ss_item_sk
GROUP BY i_category_id;

CREATE TABLE kept.pair (item_sk integer, ticket_number bigint, category_id integer, sold integer, returned integer, PRIMARY KEY (item_sk, ticket_number));
CREATE TABLE kept.pair_sums (category_id integer PRIMARY KEY, n numeric NOT NULL, sold numeric, sold2 numeric, returned numeric, returned2 numeric);
CREATE VIEW answer.return_stats AS
SELECT category_id, n AS pairs, round(sold / n, 6) AS sold_avg, round(sqrt((n * sold2 - sold * sold) / nullif(n * (n - 1), 0)), 6) AS sold_stddev,
	round(returned / n, 6) AS returned_avg, round(sqrt((n * returned2 - returned * returned) / nullif(n * (n - 1), 0)), 6) AS returned_stddev
FROM kept.pair_sums WHERE n <> 0;

SELECT trucker.create_truck('return_stats', '{store_sales, store_returns}', input_sql => $$
	{{ if eq .input_table "tpcds.store_sales" }}
	SELECT ss_item_sk AS item_sk, ss_ticket_number AS ticket_number FROM r WHERE meta__operation <> 'delete'
	UNION
	SELECT old__ss_item_sk, old__ss_ticket_number FROM r WHERE meta__operation <> 'insert'
	{{ else }}
	SELECT sr_item_sk AS item_sk, sr_ticket_number AS ticket_number FROM r WHERE meta__operation <> 'delete'
	UNION
	SELECT old__sr_item_sk, old__sr_ticket_number FROM r WHERE meta__operation <> 'insert'
	{{ end }}
$$, output_sql => $$
	WITH gone AS (DELETE FROM kept.pair AS k USING r WHERE (k.item_sk, k.ticket_number) = (r.item_sk, r.ticket_number) RETURNING k.*)
	INSERT INTO kept.pair_sums AS t
	SELECT category_id, -count(*), -sum(sold), -sum(sold * sold), -sum(returned), -sum(returned * returned) FROM gone GROUP BY category_id
	ON CONFLICT (category_id) DO UPDATE SET n = t.n + excluded.n, sold = t.sold + excluded.sold, sold2 = t.sold2 + excluded.sold2,
		returned = t.returned + excluded.returned, returned2 = t.returned2 + excluded.returned2;

	WITH come AS (
		INSERT INTO kept.pair
		SELECT ss_item_sk, ss_ticket_number, i_category_id, ss_quantity, sr_return_quantity
		FROM r
		JOIN store_sales ON (ss_item_sk, ss_ticket_number) = (r.item_sk, r.ticket_number)
		JOIN store_returns ON (sr_item_sk, sr_ticket_number) = (r.item_sk, r.ticket_number)
		JOIN item ON i_item_sk = ss_item_sk
		RETURNING *)
	INSERT INTO kept.pair_sums AS t
	SELECT category_id, count(*), sum(sold), sum(sold * sold), sum(returned), sum(returned * returned) FROM come GROUP BY category_id
	ON CONFLICT (category_id) DO UPDATE SET n = t.n + excluded.n, sold = t.sold + excluded.sold, sold2 = t.sold2 + excluded.sold2,
		returned = t.returned + excluded.returned, returned2 = t.returned2 + excluded.returned2
$$, options => '{"stream": "ds", "reset_sql": "DELETE FROM kept.pair; DELETE FROM kept.pair_sums",
	"on_truncate": "run", "truncate_sql": "DELETE FROM kept.pair; DELETE FROM kept.pair_sums"}');
