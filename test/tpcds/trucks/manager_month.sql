-- What did the items of each manager sell in each month?  Items get other managers all the time,
-- so the truck reads them, too, and keeps who manages what, and what each item has sold: as of
-- the change that it has got to, whatever the source's tables say by then.
CREATE VIEW question.manager_month AS
SELECT i_manager_id, d_year, d_moy, sum(ss_net_paid) AS paid, count(*) AS lines
FROM store_sales
JOIN date_dim ON d_date_sk = ss_sold_date_sk
JOIN item ON i_item_sk = ss_item_sk
GROUP BY i_manager_id, d_year, d_moy;

CREATE TABLE kept.item_manager (item_sk integer PRIMARY KEY, manager_id integer);
CREATE TABLE kept.item_month (item_sk integer, d_year integer, d_moy integer, paid numeric NOT NULL, lines bigint NOT NULL,
	PRIMARY KEY (item_sk, d_year, d_moy));
CREATE TABLE answer.manager_month (i_manager_id integer, d_year integer, d_moy integer, paid numeric NOT NULL, lines bigint NOT NULL,
	PRIMARY KEY (i_manager_id, d_year, d_moy));

SELECT trucker.create_truck('manager_month', '{item, store_sales}', input_sql => $$
	{{ if eq .input_table "tpcds.item" }}
	SELECT i_item_sk AS item_sk, i_manager_id AS manager_id, old__i_item_sk AS old_item_sk FROM r
	{{ else }}
	SELECT item_sk, d_year, d_moy, sum(paid) AS paid, sum(lines) AS lines
	FROM (SELECT ss_sold_date_sk AS date_sk, ss_item_sk AS item_sk, ss_net_paid AS paid, 1 AS lines
			FROM r WHERE meta__operation <> 'delete'
		UNION ALL
		SELECT old__ss_sold_date_sk, old__ss_item_sk, -old__ss_net_paid, -1 FROM r WHERE meta__operation <> 'insert') AS c
	JOIN date_dim ON d_date_sk = date_sk
	GROUP BY item_sk, d_year, d_moy
	{{ end }}
$$, output_sql => $$
	{{ if eq .input_table "tpcds.item" }}
	-- what an item has sold so far goes from its old manager to its new one
	INSERT INTO answer.manager_month AS t
	SELECT manager_id, d_year, d_moy, sum(sign * paid), sum(sign * lines)
	FROM (SELECT item_sk, manager_id, 1 AS sign FROM r WHERE item_sk IS NOT NULL
		UNION ALL
		SELECT k.item_sk, k.manager_id, -1 FROM r JOIN kept.item_manager AS k ON k.item_sk = r.old_item_sk) AS c
	JOIN kept.item_month USING (item_sk)
	GROUP BY manager_id, d_year, d_moy
	ON CONFLICT (i_manager_id, d_year, d_moy) DO UPDATE SET paid = t.paid + excluded.paid, lines = t.lines + excluded.lines;

	DELETE FROM kept.item_manager AS k USING r WHERE k.item_sk = r.old_item_sk;
	INSERT INTO kept.item_manager SELECT item_sk, manager_id FROM r WHERE item_sk IS NOT NULL;
	{{ else }}
	INSERT INTO answer.manager_month AS t
	SELECT manager_id, d_year, d_moy, sum(paid), sum(lines)
	FROM r JOIN kept.item_manager USING (item_sk)
	GROUP BY manager_id, d_year, d_moy
	ON CONFLICT (i_manager_id, d_year, d_moy) DO UPDATE SET paid = t.paid + excluded.paid, lines = t.lines + excluded.lines;

	INSERT INTO kept.item_month AS t SELECT item_sk, d_year, d_moy, paid, lines FROM r
	ON CONFLICT (item_sk, d_year, d_moy) DO UPDATE SET paid = t.paid + excluded.paid, lines = t.lines + excluded.lines;
	DELETE FROM kept.item_month AS k USING r WHERE (k.item_sk, k.d_year, k.d_moy) = (r.item_sk, r.d_year, r.d_moy) AND k.lines = 0;
	{{ end }}
	DELETE FROM answer.manager_month WHERE lines = 0
$$, options => '{"stream": "ds", "reset_sql": "DELETE FROM answer.manager_month; DELETE FROM kept.item_month; DELETE FROM kept.item_manager"}');
