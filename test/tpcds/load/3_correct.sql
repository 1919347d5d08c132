-- sales change their price, quantity, customer, store, date, promotion
\set x random(1, 1000000)
\set quantity random(1, 40)
\set customer random_zipfian(1, 400, 1.1)
\set store random(0, 8)
\set day random(0, 364)
SELECT load.did('correct');
BEGIN;
SELECT load.lock_ticket(ticket), ticket AS t FROM load.hot(:x) AS ticket \gset
UPDATE store_sales SET ss_quantity = :quantity, ss_ext_sales_price = :quantity * ss_sales_price,
	ss_net_paid = :quantity * ss_sales_price - ss_coupon_amt, ss_net_profit = :quantity * (ss_sales_price - ss_wholesale_cost) - ss_coupon_amt
WHERE ss_ticket_number = :t;
UPDATE store_sales SET ss_customer_sk = :customer, ss_store_sk = nullif(:store, 0) WHERE ss_ticket_number = :t AND :quantity % 3 = 0;
UPDATE store_sales SET ss_sold_date_sk = 2451545 + :day, ss_promo_sk = nullif(:day % 21, 0) WHERE ss_ticket_number = :t AND :quantity % 3 = 1;
COMMIT;
