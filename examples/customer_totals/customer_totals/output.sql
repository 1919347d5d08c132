-- new values count plus, old values minus: each change counts, and each counts once
INSERT INTO customer_totals AS t (customer_id, orders, amount)
SELECT customer_id, sum(n), sum(amount)
FROM (
	SELECT customer_id, 1 AS n, amount FROM r WHERE meta__operation <> 'delete'
	UNION ALL
	SELECT old__customer_id, -1, -old__amount FROM r WHERE meta__operation <> 'insert'
) AS change
GROUP BY customer_id
ON CONFLICT (customer_id) DO UPDATE
SET orders = t.orders + excluded.orders, amount = t.amount + excluded.amount;

DELETE FROM customer_totals WHERE orders = 0;
