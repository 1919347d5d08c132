-- gone; another number; a number that is used again; a transaction that is not
DELETE FROM orders WHERE id = 11;
UPDATE orders SET id = 20 WHERE id = 10;
BEGIN;
DELETE FROM orders WHERE id = 12;
INSERT INTO orders VALUES (12, 1, 2, 5);
COMMIT;
BEGIN;
DELETE FROM orders;
ROLLBACK;
