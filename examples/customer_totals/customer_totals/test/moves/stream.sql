UPDATE orders SET amount = amount + 100 WHERE id <= 10;
UPDATE orders SET customer_id = 7 WHERE customer_id = 1 AND id > 5;
INSERT INTO orders SELECT n, n % 3, n FROM generate_series(31, 40) AS n;
BEGIN;
UPDATE orders SET amount = 1 WHERE id = 3;
UPDATE orders SET amount = 2, customer_id = 2 WHERE id = 3;
DELETE FROM orders WHERE id = 3;
INSERT INTO orders VALUES (3, 9, 5);
COMMIT;
-- all that customer 0 has
DELETE FROM orders WHERE customer_id = 0;
