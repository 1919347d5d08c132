DROP INDEX audit.entry_order_id_idx;
ALTER TABLE audit.entry DROP COLUMN old_state;
