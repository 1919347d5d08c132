-- customers move, addresses, households, stores and items change, and there are new ones
\set customer random_zipfian(1, 400, 1.1)
\set address random(0, 300)
\set renamed random(1, 300)
\set household random(1, 72)
\set store random(1, 8)
\set item random(1, 200)
\set manager random(1, 12)
\set what random(0, 15)
\set rare :what = 0
\set once :what = 1
SELECT load.did('dimensions');
BEGIN;
UPDATE customer SET c_current_addr_sk = nullif(:address, 0), c_last_name = 'last ' || :address WHERE c_customer_sk = :customer;
UPDATE customer_address SET ca_city = 'city ' || :item, ca_state = (ARRAY['CA', 'GA', 'TN'])[1 + :item % 3] WHERE ca_address_sk = :renamed;
UPDATE item SET i_manager_id = :manager, i_current_price = i_current_price + 0.01 WHERE i_item_sk = :item;
\if :rare
UPDATE household_demographics SET hd_buy_potential = 'potential ' || :manager WHERE hd_demo_sk = :household;
UPDATE store SET s_store_name = 'store ' || :item WHERE s_store_sk = :store;
\endif
COMMIT;
\if :once
BEGIN;
SELECT nextval('load.new_item') AS new \gset
SELECT load.add_items(:new, :new);
SELECT load.add_customers(:new, :new);
SELECT load.sell(2) AS t \gset
UPDATE store_sales SET ss_item_sk = :new, ss_customer_sk = :new
WHERE (ss_item_sk, ss_ticket_number) = (SELECT ss_item_sk, ss_ticket_number FROM store_sales WHERE ss_ticket_number = :t ORDER BY ss_item_sk LIMIT 1);
COMMIT;
DELETE FROM customer WHERE c_customer_sk = :new - 3;
\endif
