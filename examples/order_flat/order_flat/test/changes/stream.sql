-- each of the three tables changes
UPDATE products SET price = 5.00 WHERE id = 1;
UPDATE customers SET name = 'Olga' WHERE id = 2;
BEGIN;
INSERT INTO customers VALUES (3, 'Eva');
INSERT INTO orders VALUES (13, 3, 2, 3);
COMMIT;
UPDATE orders SET quantity = 1, product_id = 2 WHERE id = 10;
