TRUNCATE order_flat;
