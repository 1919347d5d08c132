-- retractions: orders that are gone, and the old numbers of those that have another one now
DELETE FROM order_flat AS f USING r
WHERE f.id = r.old__id AND r.id IS DISTINCT FROM r.old__id;

INSERT INTO order_flat (id, customer, product, amount)
SELECT id, customer, product, amount FROM r WHERE id IS NOT NULL
ON CONFLICT (id) DO UPDATE
SET (customer, product, amount) = (excluded.customer, excluded.product, excluded.amount);
