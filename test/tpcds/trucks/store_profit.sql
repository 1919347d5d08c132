-- What has each store earned?  Sales are added, returns are taken off; a TRUNCATE of the returns
-- gives back what they have cost.
CREATE VIEW question.store_profit AS
SELECT store_sk, sum(profit) AS profit, sum(sales) AS sales, sum(returns) AS returns
FROM (SELECT ss_store_sk AS store_sk, ss_net_profit AS profit, 1 AS sales, 0 AS returns FROM store_sales
	UNION ALL
	SELECT sr_store_sk, -sr_net_loss, 0, 1 FROM store_returns) AS c
WHERE store_sk IS NOT NULL
GROUP BY store_sk;

CREATE TABLE kept.store_profit (store_sk integer PRIMARY KEY, earned numeric NOT NULL, sales bigint NOT NULL, lost numeric NOT NULL, returns bigint NOT NULL);
CREATE VIEW answer.store_profit AS
SELECT store_sk, earned - lost AS profit, sales, returns FROM kept.store_profit WHERE sales <> 0 OR returns <> 0;

SELECT trucker.create_truck('store_profit', '{store_sales, store_returns}', input_sql => $$
	SELECT store_sk, sum(sign * earned) AS earned, sum(sign * sales) AS sales, sum(sign * lost) AS lost, sum(sign * returns) AS returns
	FROM (
	{{ if eq .input_table "tpcds.store_sales" }}
		SELECT 1 AS sign, ss_store_sk AS store_sk, ss_net_profit AS earned, 1 AS sales, 0 AS lost, 0 AS returns
		FROM r WHERE meta__operation <> 'delete'
		UNION ALL
		SELECT -1, old__ss_store_sk, old__ss_net_profit, 1, 0, 0 FROM r WHERE meta__operation <> 'insert'
	{{ else }}
		SELECT 1 AS sign, sr_store_sk AS store_sk, 0 AS earned, 0 AS sales, sr_net_loss AS lost, 1 AS returns
		FROM r WHERE meta__operation <> 'delete'
		UNION ALL
		SELECT -1, old__sr_store_sk, 0, 0, old__sr_net_loss, 1 FROM r WHERE meta__operation <> 'insert'
	{{ end }}
	) AS c
	WHERE store_sk IS NOT NULL
	GROUP BY store_sk
$$, output_sql => $$
	MERGE INTO kept.store_profit AS t USING r ON t.store_sk = r.store_sk
	WHEN MATCHED THEN UPDATE SET earned = t.earned + r.earned, sales = t.sales + r.sales, lost = t.lost + r.lost, returns = t.returns + r.returns
	WHEN NOT MATCHED THEN INSERT VALUES (r.store_sk, r.earned, r.sales, r.lost, r.returns)
$$, options => $$ {"stream": "ds", "reset_sql": "DELETE FROM kept.store_profit", "on_truncate": "run", "truncate_sql":
	"UPDATE kept.store_profit SET {{ if eq .input_table \"tpcds.store_sales\" }} earned = 0, sales = 0 {{ else }} lost = 0, returns = 0 {{ end }}"} $$);
