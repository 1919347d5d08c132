SELECT t.orders = s.orders AND t.amount = s.amount, customer_id, t.orders, s.orders, t.amount, s.amount
FROM customer_totals AS t
FULL JOIN (SELECT customer_id, count(*) AS orders, sum(amount) AS amount FROM orders GROUP BY customer_id) AS s USING (customer_id);
SELECT count(*) = 0 FROM customer_totals WHERE customer_id = 0;
