TRUNCATE customer_totals;
