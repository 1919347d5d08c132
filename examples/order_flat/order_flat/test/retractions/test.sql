SELECT array_agg(id ORDER BY id) = '{12, 20}', array_agg(id ORDER BY id) FROM order_flat;
SELECT customer = 'Ana' AND product = 'pot' AND amount = 100, * FROM order_flat WHERE id = 12;
SELECT customer = 'Ana' AND product = 'cup' AND amount = 9, * FROM order_flat WHERE id = 20;
