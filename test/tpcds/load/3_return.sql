-- goods come back, or did not after all, or less of them
\set x random(1, 1000000)
\set what random(0, 5)
SELECT load.did('return');
BEGIN;
SELECT load.lock_ticket(ticket), ticket AS t FROM load.hot(:x) AS ticket \gset
\set few :what < 4
\set gone :what = 4
\if :few
SELECT load.add_returns(:t, 50 + :what * 10);
\elif :gone
DELETE FROM store_returns WHERE sr_ticket_number IN (:t, -:t);
\else
UPDATE store_returns SET sr_return_quantity = 1, sr_return_amt = sr_return_amt / 2, sr_net_loss = sr_net_loss + 1, sr_store_sk = 1 + sr_item_sk % 8
WHERE sr_ticket_number IN (:t, -:t);
\endif
COMMIT;
