ALTER TABLE audit.entry ADD COLUMN old_state text;
CREATE INDEX ON audit.entry (order_id);
