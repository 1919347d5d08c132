-- the same as the query over the source, both ways; what there is besides true is shown
SELECT false, 'missing', s.* FROM (
	SELECT o.id, c.name, p.name, o.quantity * p.price
	FROM orders AS o JOIN customers AS c ON c.id = o.customer_id JOIN products AS p ON p.id = o.product_id
	EXCEPT SELECT id, customer, product, amount FROM order_flat) AS s;
SELECT count(*) = 4, count(*) FROM order_flat;
SELECT customer = 'Eva' AND amount = 60, customer, amount FROM order_flat WHERE id = 13;
SELECT customer = 'Olga' AND amount = 20, customer, amount FROM order_flat WHERE id = 12;
