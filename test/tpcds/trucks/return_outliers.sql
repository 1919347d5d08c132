-- Which customers have returned more than 1.2 times what a customer of that store returns on
-- average?  Sums by customer and store are kept; of each store that is touched the answer is made anew from these.
CREATE VIEW question.return_outliers AS
WITH total AS (
	SELECT sr_customer_sk, sr_store_sk, sum(sr_return_amt) AS amount
	FROM store_returns WHERE sr_customer_sk IS NOT NULL AND sr_store_sk IS NOT NULL
	GROUP BY sr_customer_sk, sr_store_sk)
SELECT sr_store_sk, sr_customer_sk, amount FROM total
WHERE amount > (SELECT avg(amount) * 1.2 FROM total AS a WHERE a.sr_store_sk = total.sr_store_sk);

CREATE TABLE kept.customer_returns (store_sk integer, customer_sk integer, amount numeric NOT NULL, lines bigint NOT NULL, PRIMARY KEY (store_sk, customer_sk));
CREATE TABLE answer.return_outliers (store_sk integer, customer_sk integer, amount numeric NOT NULL, PRIMARY KEY (store_sk, customer_sk));

SELECT trucker.create_truck('return_outliers', '{store_returns}', input_sql => $$
	SELECT store_sk, customer_sk, sum(amount) AS amount, sum(lines) AS lines
	FROM (SELECT sr_store_sk AS store_sk, sr_customer_sk AS customer_sk, sr_return_amt AS amount, 1 AS lines
			FROM r WHERE meta__operation <> 'delete'
		UNION ALL
		SELECT old__sr_store_sk, old__sr_customer_sk, -old__sr_return_amt, -1 FROM r WHERE meta__operation <> 'insert') AS c
	WHERE store_sk IS NOT NULL AND customer_sk IS NOT NULL
	GROUP BY store_sk, customer_sk
$$, output_sql => $$
	INSERT INTO kept.customer_returns AS t SELECT store_sk, customer_sk, amount, lines FROM r
	ON CONFLICT (store_sk, customer_sk) DO UPDATE SET amount = t.amount + excluded.amount, lines = t.lines + excluded.lines;
	DELETE FROM kept.customer_returns AS k USING r WHERE (k.store_sk, k.customer_sk) = (r.store_sk, r.customer_sk) AND k.lines = 0;

	DELETE FROM answer.return_outliers WHERE store_sk IN (SELECT store_sk FROM r);
	INSERT INTO answer.return_outliers
	SELECT store_sk, customer_sk, amount
	FROM (SELECT *, avg(amount) OVER (PARTITION BY store_sk) AS average
		FROM kept.customer_returns WHERE store_sk IN (SELECT store_sk FROM r)) AS k
	WHERE amount > average * 1.2
$$, options => '{"stream": "ds", "reset_sql": "DELETE FROM answer.return_outliers; DELETE FROM kept.customer_returns",
	"on_truncate": "run", "truncate_sql": "DELETE FROM answer.return_outliers; DELETE FROM kept.customer_returns"}');
