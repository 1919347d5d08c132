CREATE TABLE orders (id bigint PRIMARY KEY, state text NOT NULL);
ALTER TABLE orders REPLICA IDENTITY FULL;
INSERT INTO orders VALUES (1, 'new'), (2, 'new');
