CREATE TABLE orders (id bigint PRIMARY KEY, customer_id integer NOT NULL, amount integer NOT NULL);
-- old values of all columns are needed, not of the key only
ALTER TABLE orders REPLICA IDENTITY FULL;
CREATE TABLE customer_totals (customer_id integer PRIMARY KEY, orders bigint NOT NULL, amount bigint NOT NULL);
INSERT INTO orders SELECT n, n % 3, n FROM generate_series(1, 30) AS n;
