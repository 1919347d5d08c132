-- What the clients of the load call.  Where a transaction may change what another one changes, it
-- takes an advisory lock of the ticket or warehouse first, so clients never meet in a deadlock:
-- what fails in the load is somebody else's fault.
CREATE FUNCTION load.lock_ticket(ticket bigint) RETURNS void
LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(abs(ticket)) $$;

CREATE FUNCTION load.lock_warehouse(warehouse integer) RETURNS void
LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(-1, warehouse) $$;

-- did(what): counts what the load does, rolled back or not
CREATE FUNCTION load.did(what text) RETURNS void
LANGUAGE sql AS $$ SELECT nextval(('load.did_' || what)::regclass) $$;
SELECT format('CREATE SEQUENCE load.did_%s MINVALUE 0', what)
FROM unnest('{sell,correct,return,void,savepoints,rollback,prepared,count,dimensions,column,rename,index,truncate,attach,detach}'::text[]) AS what \gexec

-- sell(lines): a new ticket; the oldest one goes, if not everything of it has gone before.  Returns it.
CREATE FUNCTION load.sell(lines integer) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
	ticket CONSTANT bigint := nextval('load.ticket');
	oldest CONSTANT bigint := ticket - 2000 * (SELECT scale FROM load.setting);
BEGIN
	PERFORM load.add_sales(ticket, lines);
	PERFORM load.lock_ticket(oldest);
	DELETE FROM store_returns WHERE sr_ticket_number IN (oldest, -oldest);
	DELETE FROM store_sales WHERE ss_ticket_number IN (oldest, -oldest);
	RETURN ticket;
END
$$;

-- hot(x): a ticket of the last 1,500, the newest most often; x is from 1 to 1,000,000
CREATE FUNCTION load.hot(x integer) RETURNS bigint
LANGUAGE sql AS $$
	SELECT greatest(last_value - floor(1500 * (SELECT scale FROM load.setting) * (x / 1000000.0) ^ 3)::bigint, 1) FROM load.ticket
$$;

-- switch_partition(k): one of three partitions behind week 25 comes or goes.  Those with an even number
-- are dropped, the others wait beside the table, empty, for the next time.  What a detached partition
-- holds stays at the destinations, so its rows are deleted before.
CREATE FUNCTION load.switch_partition(k integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	part CONSTANT text := 'inventory_switched_' || k;
BEGIN
	LOCK TABLE inventory IN ACCESS EXCLUSIVE MODE;
	IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(part)) THEN
		PERFORM load.did('detach');
		EXECUTE format('DELETE FROM %I', part);
		EXECUTE format('ALTER TABLE inventory DETACH PARTITION %I', part);
		IF k % 2 = 0 THEN
			EXECUTE format('DROP TABLE %I', part);
		END IF;
	ELSE
		PERFORM load.did('attach');
		EXECUTE format('CREATE TABLE IF NOT EXISTS %I (LIKE inventory INCLUDING INDEXES)', part);
		-- one that has waited has the columns of its time
		IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'inventory'::regclass AND attname = 'note' AND NOT attisdropped) THEN
			EXECUTE format('ALTER TABLE %I ADD COLUMN IF NOT EXISTS note text', part);
		ELSE
			EXECUTE format('ALTER TABLE %I DROP COLUMN IF EXISTS note', part);
		END IF;
		EXECUTE format('ALTER TABLE %I REPLICA IDENTITY FULL', part);
		EXECUTE format('ALTER TABLE inventory ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', part, load.week(26 + 2 * k), load.week(28 + 2 * k));
		PERFORM load.add_inventory(26 + 2 * k, 27 + 2 * k, 5);
	END IF;
END
$$;

-- ddl(): one thing after the other; for one client
CREATE SEQUENCE load.ddl;
CREATE FUNCTION load.ddl() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	n CONSTANT bigint := nextval('load.ddl');
	k CONSTANT integer := n / 5 % 3;
	fact CONSTANT text := (ARRAY['store_sales', 'store_returns', 'inventory'])[1 + k % 3];
	name text;
BEGIN
	CASE n % 5
	WHEN 0 THEN
		PERFORM load.did('column');
		-- a column comes or goes
		IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = fact::regclass AND attname = 'note' AND NOT attisdropped) THEN
			EXECUTE format('ALTER TABLE %I DROP COLUMN note', fact);
		ELSE
			EXECUTE format('ALTER TABLE %I ADD COLUMN note text DEFAULT %L', fact, 'note ' || k);
		END IF;
	WHEN 1 THEN
		PERFORM load.did('rename');
		-- a column that no truck reads gets another name
		SELECT attname INTO name FROM pg_attribute
		WHERE attrelid = 'store_sales'::regclass AND attname IN ('ss_sold_time_sk', 'ss_sold_second_sk');
		EXECUTE format('ALTER TABLE store_sales RENAME COLUMN %I TO %I', name,
			CASE name WHEN 'ss_sold_time_sk' THEN 'ss_sold_second_sk' ELSE 'ss_sold_time_sk' END);
	WHEN 2 THEN
		PERFORM load.did('index');
		IF to_regclass('load_index_' || k % 2) IS NULL THEN
			EXECUTE format('CREATE INDEX %I ON store_sales (ss_store_sk, ss_quantity)', 'load_index_' || k % 2);
		ELSE
			EXECUTE format('DROP INDEX %I', 'load_index_' || k % 2);
		END IF;
	WHEN 3 THEN
		PERFORM load.did('truncate');
		-- the returns are thrown away and taken anew
		TRUNCATE store_returns;
		PERFORM load.add_returns(load.hot(i * 4000), 50) FROM generate_series(k, 250, 7) AS i;
	ELSE
		PERFORM load.switch_partition(k);
	END CASE;
END
$$;
