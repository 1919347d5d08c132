-- How did each store's takings add up over the days?  A running sum: a change of one day moves all
-- later ones.
CREATE VIEW question.store_running AS
SELECT store_sk, date_sk, paid, sum(paid) OVER (PARTITION BY store_sk ORDER BY date_sk) AS running
FROM (SELECT ss_store_sk AS store_sk, ss_sold_date_sk AS date_sk, sum(ss_net_paid) AS paid
	FROM store_sales WHERE ss_store_sk IS NOT NULL AND ss_sold_date_sk IS NOT NULL
	GROUP BY ss_store_sk, ss_sold_date_sk) AS day;

CREATE TABLE answer.store_running (store_sk integer, date_sk integer, paid numeric NOT NULL, running numeric NOT NULL, lines bigint NOT NULL, PRIMARY KEY (store_sk, date_sk));

SELECT trucker.create_truck('store_running', '{store_sales}', input_sql => $$
	SELECT store_sk, date_sk, sum(paid) AS paid, sum(lines) AS lines
	FROM (SELECT ss_store_sk AS store_sk, ss_sold_date_sk AS date_sk, ss_net_paid AS paid, 1 AS lines FROM r WHERE meta__operation <> 'delete'
		UNION ALL
		SELECT old__ss_store_sk, old__ss_sold_date_sk, -old__ss_net_paid, -1 FROM r WHERE meta__operation <> 'insert') AS c
	WHERE store_sk IS NOT NULL AND date_sk IS NOT NULL
	GROUP BY store_sk, date_sk
$$, output_sql => $$
	-- a new day begins with what the days before it come to
	INSERT INTO answer.store_running
	SELECT store_sk, date_sk, 0, coalesce(
		(SELECT running FROM answer.store_running AS t WHERE t.store_sk = r.store_sk AND t.date_sk < r.date_sk ORDER BY t.date_sk DESC LIMIT 1), 0), 0
	FROM r
	ON CONFLICT (store_sk, date_sk) DO NOTHING;

	UPDATE answer.store_running AS t SET running = running + d.paid
	FROM (SELECT l.store_sk, l.date_sk, sum(r.paid) AS paid
		FROM answer.store_running AS l JOIN r ON r.store_sk = l.store_sk AND r.date_sk <= l.date_sk
		GROUP BY l.store_sk, l.date_sk) AS d
	WHERE (t.store_sk, t.date_sk) = (d.store_sk, d.date_sk) AND d.paid <> 0;

	UPDATE answer.store_running AS t SET paid = t.paid + r.paid, lines = t.lines + r.lines
	FROM r WHERE (t.store_sk, t.date_sk) = (r.store_sk, r.date_sk);
	DELETE FROM answer.store_running WHERE lines = 0
$$, options => '{"stream": "dsp", "reset_sql": "DELETE FROM answer.store_running"}');
