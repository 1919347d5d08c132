UPDATE orders SET state = 'paid' WHERE id = 1;
BEGIN;
INSERT INTO orders VALUES (3, 'new');
UPDATE orders SET state = 'paid' WHERE id = 3;
COMMIT;
DELETE FROM orders WHERE id = 2;
