INSERT INTO audit.entry (table_name, operation, committed_at, lsn, seq, order_id, old_state, new_state)
SELECT table_name, operation, committed_at, lsn::pg_lsn, seq, order_id, old_state, new_state FROM r;
