CREATE SCHEMA audit;
CREATE TABLE audit.entry (
	table_name   text NOT NULL,
	operation    text NOT NULL,
	committed_at timestamptz,       -- NULL: the row was there before
	lsn          pg_lsn,
	seq          bigint,
	order_id     bigint NOT NULL,
	new_state    text
);
