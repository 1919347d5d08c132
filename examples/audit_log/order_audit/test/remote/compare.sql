-- not the time and the LSN: each run has its own
SELECT table_name, operation, order_id, old_state, new_state, committed_at IS NULL FROM audit.entry;
