CREATE TABLE customers (id integer PRIMARY KEY, name text NOT NULL);
CREATE TABLE products (id integer PRIMARY KEY, name text NOT NULL, price numeric(12,2) NOT NULL);
CREATE TABLE orders (
	id          bigint PRIMARY KEY,
	customer_id integer NOT NULL REFERENCES customers,
	product_id  integer NOT NULL REFERENCES products,
	quantity    integer NOT NULL
);
CREATE TABLE order_flat (id bigint PRIMARY KEY, customer text, product text, amount numeric(14,2));

INSERT INTO customers VALUES (1, 'Ana'), (2, 'Ola');
INSERT INTO products VALUES (1, 'cup', 4.50), (2, 'pot', 20.00);
INSERT INTO orders VALUES (10, 1, 1, 2), (11, 1, 2, 1), (12, 2, 1, 4);
