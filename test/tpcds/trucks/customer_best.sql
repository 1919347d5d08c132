-- What is the most that each customer has paid for a line?  A new maximum is known from the change;
-- where the old one goes, it is looked up in the source.
CREATE VIEW question.customer_best AS
SELECT ss_customer_sk, max(ss_net_paid) AS best FROM store_sales WHERE ss_customer_sk IS NOT NULL GROUP BY ss_customer_sk;

CREATE TABLE answer.customer_best (customer_sk integer PRIMARY KEY, best numeric);

SELECT trucker.create_truck('customer_best', '{store_sales}', $$
	INSERT INTO answer.customer_best AS t
	SELECT ss_customer_sk, max(ss_net_paid) FROM r WHERE meta__operation <> 'delete' AND ss_customer_sk IS NOT NULL GROUP BY ss_customer_sk
	ON CONFLICT (customer_sk) DO UPDATE SET best = greatest(t.best, excluded.best);

	UPDATE answer.customer_best AS t
	SET best = (SELECT max(ss_net_paid) FROM store_sales WHERE ss_customer_sk = t.customer_sk)
	FROM r WHERE meta__operation <> 'insert' AND (t.customer_sk, t.best) = (r.old__ss_customer_sk, r.old__ss_net_paid);
	DELETE FROM answer.customer_best WHERE best IS NULL
$$, options => '{"stream": "ds", "reset_sql": "DELETE FROM answer.customer_best"}');
