/* trucker--0.1.sql: the tables, functions and views of schema trucker */

\echo Use "CREATE EXTENSION trucker" to load this file. \quit

-- Made here, not by the control file: an existing schema might be somebody
-- else's, who could then put objects of his own beside ours.
CREATE SCHEMA trucker;

/*
 * Tables.  Nobody but a superuser reads or writes them directly: the functions
 * below do, after checking who asks.
 */

-- What a truck is.  Dumped and restored; all that is true only of this running
-- database (slot, position, wished-for state) stands in the tables below.
CREATE TABLE trucker.truck (
	id                uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
	name              text NOT NULL UNIQUE,
	owner             regrole NOT NULL,
	run_as            regrole NOT NULL,
	input_tables      regclass[] NOT NULL,
	input_sql         text,
	output_sql        text,		-- NULL: generated, for the option output_table
	output_connection text NOT NULL,
	options           jsonb NOT NULL,
	search_path       text NOT NULL,
	created_at        timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE trucker.truck IS
'definitions of trucks; written by create_truck, alter_truck and drop_truck only';

SELECT pg_catalog.pg_extension_config_dump('trucker.truck', '');

-- Which columns of its input tables a truck's r has: the options only_columns (keeps) and
-- except_columns.  Of the rows for a truck and a table that with the greatest "since"
-- counts; a transaction that renames columns adds one.  Dumped and restored.
CREATE TABLE trucker.column_filter (
	truck_id    uuid NOT NULL,
	input_table regclass NOT NULL,
	keeps       boolean NOT NULL,	-- r has only these columns, and the key; else all but these
	columns     text[] NOT NULL,	-- their names
	since       pg_lsn NOT NULL
);
COMMENT ON TABLE trucker.column_filter IS
'which columns of their input tables trucks read, by name';

SELECT pg_catalog.pg_extension_config_dump('trucker.column_filter', '');

-- The same by attnum, which is what counts in this database: no rename changes it.
-- No row for a truck that has one above: it was restored from a dump.  (filter_store.c)
CREATE TABLE trucker.filter_attnum (
	truck_id uuid NOT NULL,
	relid    oid NOT NULL,
	keeps    boolean NOT NULL,
	attnums  int2[] NOT NULL
);
COMMENT ON TABLE trucker.filter_attnum IS
'which columns of their input tables trucks read, by number; not dumped';

-- A stream: one replication slot, and one worker while one of its trucks shall run.
-- Trucks of one owner and one role that name the same stream end on its "home".
-- The others are catch-up streams: trucks that start, or have fallen behind, ride
-- there until they can join their home.  (stream.c, transition.c)
CREATE TABLE trucker.stream (
	id            uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
	owner         regrole NOT NULL,
	run_as        regrole NOT NULL,
	name          text NOT NULL,
	home          boolean NOT NULL,
	slot_name     text,			-- recorded before the slot is made; NULL: trucks may still come aboard
	confirmed_lsn pg_lsn,		-- the slot's, noted when the worker of a stopped stream has ended
	publication   text			-- what its slot is read with if that is pgoutput's, or will be; NULL: none yet
);
CREATE UNIQUE INDEX stream_home ON trucker.stream (owner, run_as, name) WHERE home;
CREATE UNIQUE INDEX stream_boarding ON trucker.stream (owner, run_as, name) WHERE slot_name IS NULL;
COMMENT ON TABLE trucker.stream IS
'replication slots and the workers that read them; not dumped';

-- What is set for the streams of an owner that have this name, also before there are any.
CREATE TABLE trucker.stream_setting (
	owner         regrole NOT NULL,
	name          text NOT NULL,
	output_plugin text NOT NULL,
	PRIMARY KEY (owner, name)
);
COMMENT ON TABLE trucker.stream_setting IS
'settings of streams; written by set_output_plugin only';

SELECT pg_catalog.pg_extension_config_dump('trucker.stream_setting', '');

-- The input tables that trucker's publications hold.  Of a table only what commits at or
-- after usable_lsn is sent for certain.  (publication.c)
CREATE TABLE trucker.published_table (
	publication  text NOT NULL,
	relid        oid NOT NULL,
	inserts_only boolean NOT NULL,	-- it may lack a replica identity
	added_before xid8,		-- it is known that the table was there before this transaction began; NULL: not known yet
	usable_lsn   pg_lsn,	-- NULL: a transaction with a lesser number may still run
	columns      int2[],	-- of the input, for which that is so; NULL: all
	PRIMARY KEY (publication, relid)
);
COMMENT ON TABLE trucker.published_table IS
'input tables in trucker''s publications, and from where on all their changes are sent; not dumped';

-- Which columns (attnums; 0: all) of its input tables a truck needs that is read by
-- pgoutput.  No row: all.  (column_list.c)
CREATE TABLE trucker.column_need (
	truck_id       uuid NOT NULL,
	relid          oid NOT NULL,
	columns        int2[] NOT NULL,	-- carried by all changes that it has yet to apply
	made_of        text NOT NULL,	-- trucker.columns_made_of() the table, when that was found out
	wanted         int2[],			-- and these, carried from some LSN on, for the definition that is run from there on
	wanted_made_of text,
	PRIMARY KEY (truck_id, relid)
);
COMMENT ON TABLE trucker.column_need IS
'columns of input tables that trucks need of a publication; not dumped';

-- The definition that a truck had before it was altered, as long as it has changes to
-- apply that do not carry all columns that the new one reads.  (former.c)
CREATE TABLE trucker.former_truck (
	truck_id     uuid PRIMARY KEY,
	input_tables oid[] NOT NULL,
	input_sql    text,
	output_sql   text,
	options      jsonb NOT NULL,
	search_path  text NOT NULL,
	filters      text[],	-- each: table, keeps, attnums
	in_force     boolean NOT NULL DEFAULT false,	-- else its worker has yet to find out whether it is needed
	switches_at  pg_lsn,	-- what commits here or later is for the new one; NULL: not known yet
	since        timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE trucker.former_truck IS
'definitions that trucks had, and still run until their new ones take effect; not dumped';

CREATE TABLE trucker.truck_state (
	truck_id       uuid PRIMARY KEY,
	stream_id      uuid,		-- the stream that carries it now; NULL: none
	enabled        boolean NOT NULL DEFAULT false,
	enabled_at     timestamptz,	-- when start() or stop() has changed that; NULL: never
	needs_backfill boolean NOT NULL DEFAULT true,
	needs_reset    boolean NOT NULL DEFAULT false,
	lost           boolean NOT NULL DEFAULT false,
	failed         boolean NOT NULL DEFAULT false,	-- stopped by an error, as on_error says
	failed_lsn     pg_lsn,		-- commit of the source transaction whose error last_error is, if that is known
	skip_lsn       pg_lsn,		-- commit of the one that shall be passed over, as skip() says
	applied_lsn    pg_lsn,		-- noted when it changes streams, or its slot is held back for others: all before it is at the destination
	last_error     text,
	last_error_at  timestamptz,
	warned_lsn     pg_lsn		-- where the WAL ended when the log last said that it is far behind
);
CREATE INDEX truck_state_stream ON trucker.truck_state (stream_id);
COMMENT ON TABLE trucker.truck_state IS
'what each truck is to do and what became of it; not dumped: a truck without a row was restored from a dump';

-- No index, on purpose: the worker remembers the row's TID.  By key, reading
-- the row becomes slower with each dead version that an old snapshot keeps.
CREATE TABLE trucker.position (
	truck_id  uuid NOT NULL,
	system_id bigint NOT NULL,
	timeline  integer NOT NULL,
	lsn       pg_lsn NOT NULL
);
COMMENT ON TABLE trucker.position IS
'up to where each truck''s destination holds its source; written in the transaction that writes the data; not dumped';

-- What the tables of which inputs consist were called, from which point of the WAL on:
-- an input itself and, if it is partitioned, all its partitions.  The output plugin
-- filters by the name at the time of the change, so names must not be forgotten
-- before all changes made under them have been read.  The row of a table with the
-- greatest named_lsn says what it is called now; rows are added by the transaction
-- that alters.  (input_ddl.c, tables.c)
CREATE TABLE trucker.input_table (
	truck_id    uuid NOT NULL,
	relid       oid NOT NULL,	-- the input
	from_lsn    pg_lsn,			-- its changes below are in its backfill; NULL: it has yet to be loaded
	leaf        oid NOT NULL,	-- the input itself, or one of its partitions
	schema_name text,
	table_name  text,			-- NULL: from here on no part of the input; or, with a schema, it lacks a replica identity
	named_lsn   pg_lsn NOT NULL DEFAULT '0/0',
	named_by    xid8,			-- a transaction that did it without a lock on the table: for all others it holds from its commit on
	commit_lsn  pg_lsn,			-- that commit's; NULL: not known yet
	columns     text[],			-- of the input itself, from here on, as trucker.input_columns() tells; NULL: not known
	defaulted   int2[]			-- attnums of those that had a default of some kind
);							-- an input that was added by alter_truck has no row until it is loaded
COMMENT ON TABLE trucker.input_table IS
'what input tables and their partitions were called, and what columns they had, at which point of the WAL; not dumped';

-- DDL on input tables is told of in the WAL, by a logical message with this prefix,
-- of which nobody else can know: messages of other prefixes are filtered out.
CREATE TABLE trucker.message_prefix (
	prefix text NOT NULL
);
INSERT INTO trucker.message_prefix VALUES ('trucker' || pg_catalog.translate(pg_catalog.gen_random_uuid()::text, '-', ''));
COMMENT ON TABLE trucker.message_prefix IS
'the secret prefix of trucker''s logical messages in this database; not dumped';

-- Of trucks that write to another server: whose row of positions there it is, so that
-- of two that take themselves for the same truck one is refused.  (remote_position.c)
CREATE TABLE trucker.destination (
	truck_id   uuid PRIMARY KEY,
	token      uuid,			-- found there when it was last taken over
	next_token uuid NOT NULL,	-- put there then
	emptied    boolean NOT NULL	-- and no position left there: since then only this truck's backfill can have written one
);
COMMENT ON TABLE trucker.destination IS
'how each truck knows the position at another server for its own; not dumped';

-- Trucks whose input was altered so that its changes are no longer seen.  Rows are
-- added by the transaction that alters: an insert neither waits for anybody nor
-- fails, which an update of truck_state might.
CREATE TABLE trucker.unreadable_input (
	truck_id uuid NOT NULL,
	reason   text NOT NULL,
	since    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE trucker.unreadable_input IS
'why trucks are lost whose input tables were altered; emptied by resync; not dumped';

-- Trucks that prepare_upgrade() has drained, and what their input tables held then.  The
-- server that pg_upgrade makes has another system_id.  (drained.c)
CREATE TABLE trucker.drained (
	truck_id  uuid NOT NULL,
	system_id bigint NOT NULL,	-- of the server on which it was drained
	lsn       pg_lsn NOT NULL,	-- all before it was applied
	next_xid  bigint NOT NULL,	-- no transaction from this one on had written
	relid     oid NOT NULL,		-- an input table
	row_count bigint NOT NULL,
	PRIMARY KEY (truck_id, relid)
);
COMMENT ON TABLE trucker.drained IS
'what the input tables of trucks held that were drained for pg_upgrade; not dumped, but kept by pg_upgrade';

-- The tables that each truck writes, as far as its plans show, or its batches have
-- shown.  Loops of trucks are told by it.  No index: it is read as a whole.
CREATE TABLE trucker.output_table (
	truck_id uuid NOT NULL,
	relid    oid NOT NULL
);
COMMENT ON TABLE trucker.output_table IS
'tables that each truck writes, by its plans or by what it has done since it was started; not dumped';

-- Source transactions that a truck has put into quarantine, as on_error says; and, without
-- an error of their own, later ones that changed the same rows.  (apart.c)
CREATE TABLE trucker.quarantined_transaction (
	id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	truck_id       uuid NOT NULL,
	lsn            pg_lsn NOT NULL,		-- of its commit
	xid            bigint NOT NULL,
	committed_at   timestamptz NOT NULL,
	error          text,
	behind         bigint,		-- without an error: the one that held one of its keys
	quarantined_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	retry          boolean NOT NULL DEFAULT false,	-- somebody wants it to be applied
	retried_at     timestamptz,
	retry_error    text,
	UNIQUE (truck_id, lsn)
);
COMMENT ON TABLE trucker.quarantined_transaction IS
'source transactions of which changes are in quarantine; not dumped';

-- Their changes, as the output plugin wrote them.
CREATE TABLE trucker.quarantined_change (
	id          bigint NOT NULL,
	seq         integer NOT NULL,
	truck_id    uuid NOT NULL,
	relid       oid NOT NULL,		-- the input table
	part        oid NOT NULL,		-- the partition of it that was changed; 0: it is not partitioned
	record_lsn  pg_lsn NOT NULL,	-- of the change's own WAL record
	table_name  text NOT NULL,
	operation   text NOT NULL,
	made_of     bigint NOT NULL,	-- stands for the columns of the key
	keys        bigint[],			-- hashes of the row's keys; NULL: it may be any row
	new_names   text[],
	new_attnums integer[],
	new_values  text[],
	old_names   text[],
	old_attnums integer[],
	old_values  text[],
	plugin      text NOT NULL,		-- the output plugin, whose text form of values this is
	PRIMARY KEY (id, seq)
);
CREATE INDEX quarantined_change_truck ON trucker.quarantined_change (truck_id);
COMMENT ON TABLE trucker.quarantined_change IS
'changes in quarantine, shown to the truck''s owner by the view trucker.quarantine; not dumped';

-- What projects have made here: load() changes and drops nothing else.  Dumped, as the
-- definitions of trucks are.
CREATE TABLE trucker.project_object (
	project  text NOT NULL,		-- its unique_id, or its folder
	kind     text NOT NULL,		-- truck; connection: a foreign server; user mapping
	name     text NOT NULL,		-- of the truck or the foreign server
	role     regrole NOT NULL,	-- of a user mapping; else none
	truck_id uuid,
	PRIMARY KEY (kind, name, role)
);
COMMENT ON TABLE trucker.project_object IS
'which project has made which trucks, connections and user mappings; written by load() only';

SELECT pg_catalog.pg_extension_config_dump('trucker.project_object', '');

-- A member of pg_write_all_data may write any table, but no rows that row
-- security hides: what stands in these tables decides with whose rights SQL runs.
ALTER TABLE trucker.truck ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.column_filter ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.filter_attnum ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.stream ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.stream_setting ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.published_table ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.column_need ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.former_truck ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.truck_state ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.position ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.input_table ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.message_prefix ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.unreadable_input ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.output_table ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.drained ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.quarantined_transaction ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.quarantined_change ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.destination ENABLE ROW LEVEL SECURITY;
ALTER TABLE trucker.project_object ENABLE ROW LEVEL SECURITY;

/*
 * Functions.
 */
CREATE FUNCTION trucker.create_truck(
	name text, input_tables regclass[], output_sql text DEFAULT NULL, input_sql text DEFAULT NULL,
	output_connection name DEFAULT 'local', options jsonb DEFAULT '{}')
RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_create_truck';
COMMENT ON FUNCTION trucker.create_truck(text, regclass[], text, text, name, jsonb) IS
'define a truck: the tables that it reads, the SQL that turns their changes (relation r) into what output_sql writes; start() makes it run';

CREATE FUNCTION trucker.alter_truck(
	name text, input_tables regclass[] DEFAULT NULL, output_sql text DEFAULT NULL, input_sql text DEFAULT NULL,
	options jsonb DEFAULT NULL)
RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_alter_truck';
COMMENT ON FUNCTION trucker.alter_truck(text, regclass[], text, text, jsonb) IS
'change what is given (NULL: leave as it is), from the truck''s position on; tables that are added are backfilled, and no others';

CREATE FUNCTION trucker.drop_truck(name text)
RETURNS void LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'trucker_drop_truck';
COMMENT ON FUNCTION trucker.drop_truck(text) IS
'remove a truck, its position and its replication slot; what it has written stays';

CREATE FUNCTION trucker.start(name text DEFAULT NULL)
RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_start';
COMMENT ON FUNCTION trucker.start(text) IS
'check a truck (NULL: each of the caller''s) and let it run from this transaction''s commit on, also after a restart of the server';

CREATE FUNCTION trucker.stop(name text DEFAULT NULL)
RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_stop';
COMMENT ON FUNCTION trucker.stop(text) IS
'let a truck (NULL: each of the caller''s) rest from this transaction''s commit on; its position and slot are kept, so the server keeps the WAL that it has yet to read';

CREATE FUNCTION trucker.resync(name text)
RETURNS void LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'trucker_resync';
COMMENT ON FUNCTION trucker.resync(text) IS
'forget the position; the truck then runs its option reset_sql and backfills again, in one transaction';

CREATE FUNCTION trucker.retry_quarantined(id bigint)
RETURNS void LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'trucker_retry_quarantined';
COMMENT ON FUNCTION trucker.retry_quarantined(bigint) IS
'let the truck apply a quarantined transaction, and after it those that are there only because of it, from this transaction''s commit on';

CREATE FUNCTION trucker.retry_quarantined(name text)
RETURNS bigint LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'trucker_retry_all_quarantined';
COMMENT ON FUNCTION trucker.retry_quarantined(text) IS
'let a truck apply all that it has in quarantine, in the order of the commits; how many source transactions that are';

CREATE FUNCTION trucker.discard_quarantined(id bigint)
RETURNS void LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'trucker_discard_quarantined';
COMMENT ON FUNCTION trucker.discard_quarantined(bigint) IS
'forget a quarantined transaction: it will never be applied';

CREATE FUNCTION trucker.discard_quarantined(name text)
RETURNS bigint LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'trucker_discard_all_quarantined';
COMMENT ON FUNCTION trucker.discard_quarantined(text) IS
'forget all that a truck has in quarantine; how many source transactions that were';

CREATE FUNCTION trucker.skip(name text, lsn pg_lsn)
RETURNS void LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'trucker_skip';
COMMENT ON FUNCTION trucker.skip(text, pg_lsn) IS
'let a truck pass over the source transaction that it fails at, which commits at lsn (column failed_lsn of trucker.status); it will never be applied';

CREATE FUNCTION trucker.set_output_plugin(stream text, output_plugin text DEFAULT NULL)
RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_set_output_plugin';
COMMENT ON FUNCTION trucker.set_output_plugin(text, text) IS
'let the caller''s streams of this name be decoded by wal2json or by pgoutput (NULL: by what the setting trucker.output_plugin says); one that runs switches without losing or repeating anything';

CREATE FUNCTION trucker.generated_sql(name text, OUT input_table regclass, OUT output_sql text)
RETURNS SETOF record LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'trucker_generated_sql';
COMMENT ON FUNCTION trucker.generated_sql(text) IS
'the SQL that stands for output_sql where a truck has the option output_table';

CREATE FUNCTION trucker.wait_for(name text, lsn pg_lsn DEFAULT NULL, timeout interval DEFAULT '30 s')
RETURNS boolean LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_wait_for';
COMMENT ON FUNCTION trucker.wait_for(text, pg_lsn, interval) IS
'wait until everything committed before lsn (NULL: before this call) is at the destination: true, or false after the timeout';

CREATE FUNCTION trucker.truck_workers(
	OUT truck_id uuid, OUT stream_id uuid, OUT pid integer, OUT walsender_pid integer, OUT state text, OUT since timestamptz,
	OUT applied_lsn pg_lsn, OUT applied_at timestamptz, OUT next_retry_at timestamptz)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_truck_workers';
COMMENT ON FUNCTION trucker.truck_workers() IS
'the trucks of this database that workers carry, as shared memory knows them; the view trucker.status is made of it';

CREATE FUNCTION trucker.stream_workers(
	OUT stream_id uuid, OUT pid integer, OUT walsender_pid integer, OUT launch_after timestamptz, OUT waits_for_worker boolean)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_stream_workers';
COMMENT ON FUNCTION trucker.stream_workers() IS
'the stream workers of this database as shared memory knows them; the view trucker.status is made of it';

CREATE FUNCTION trucker.wal_warning(slot_name text, lsn pg_lsn)
RETURNS text LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_wal_warning';
COMMENT ON FUNCTION trucker.wal_warning(text, pg_lsn) IS
'how far a truck that has applied all before lsn is beyond half of trucker.max_retained_wal; NULL: it is not';

CREATE FUNCTION trucker.waiting_for(pid integer)
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT string_agg(
			CASE WHEN blocker <> 0 THEN 'pid ' || blocker
				 ELSE coalesce((SELECT 'prepared transaction ' || quote_literal(x.gid)
								FROM pg_locks l
								JOIN pg_prepared_xacts x ON x.transaction = l.transactionid
								WHERE l.pid = waiting_for.pid AND NOT l.granted
								AND l.locktype = 'transactionid' LIMIT 1), 'a prepared transaction')
			END, ', ')
	FROM unnest(pg_blocking_pids(waiting_for.pid)) AS b(blocker);
END;
COMMENT ON FUNCTION trucker.waiting_for(integer) IS
'the processes and prepared transactions whose locks the given process waits for; NULL: none';

CREATE FUNCTION trucker.input_parts(
	input oid, OUT leaf oid, OUT schema_name text, OUT table_name text, OUT kind "char", OUT persistence "char",
	OUT has_identity boolean)
RETURNS SETOF record LANGUAGE sql STABLE ROWS 10
BEGIN ATOMIC
	WITH RECURSIVE part(relid) AS (
		SELECT input_parts.input
		UNION ALL
		SELECT i.inhrelid FROM part JOIN pg_class c ON c.oid = part.relid AND c.relkind = 'p'
		JOIN pg_inherits i ON i.inhparent = c.oid
	)
	SELECT c.oid, n.nspname::text, c.relname::text, c.relkind, c.relpersistence,
		   c.relreplident = 'f' OR EXISTS (
				SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate
				AND CASE c.relreplident WHEN 'd' THEN x.indisprimary WHEN 'i' THEN x.indisreplident ELSE false END)
	FROM part JOIN pg_class c ON c.oid = part.relid JOIN pg_namespace n ON n.oid = c.relnamespace;
END;
COMMENT ON FUNCTION trucker.input_parts(oid) IS
'the tables that an input table consists of: itself and, if it is partitioned, its partitions at any depth';

-- What a type's values consist of that an ALTER TYPE can make mean something else: a mark for each
-- composite type within, at any depth, and its attributes, and for each label of an enum.  A value
-- of then is one of now if all its marks are there still: so labels may be added.
CREATE FUNCTION trucker.type_marks(type oid) RETURNS text
LANGUAGE sql STABLE
BEGIN ATOMIC
	WITH RECURSIVE below(oid) AS (
		SELECT type_marks.type
		UNION
		SELECT x.oid FROM below b JOIN pg_type t ON t.oid = b.oid CROSS JOIN LATERAL (
			SELECT t.typbasetype AS oid WHERE t.typtype = 'd'
			UNION ALL SELECT t.typelem WHERE t.typelem <> 0
			UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE t.typtype = 'r' AND r.rngtypid = t.oid
			UNION ALL SELECT r.rngtypid FROM pg_range r WHERE t.typtype = 'm' AND r.rngmultitypid = t.oid
			UNION ALL SELECT a.atttypid FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
		) x
	)
	SELECT string_agg(to_hex(hashtext(m.mark)), ',' ORDER BY m.mark COLLATE "C") FROM below b JOIN pg_type t ON t.oid = b.oid CROSS JOIN LATERAL (
		SELECT concat_ws(' ', t.oid, string_agg(concat_ws('/', a.attnum, a.atttypid, a.atttypmod), ' ' ORDER BY a.attnum)) AS mark
		FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped HAVING t.typtype = 'c'
		UNION ALL SELECT concat_ws(' ', e.oid, e.enumlabel) FROM pg_enum e WHERE t.typtype = 'e' AND e.enumtypid = t.oid
	) m;
END;
COMMENT ON FUNCTION trucker.type_marks(oid) IS
'marks of what values of a type consist of; they change when an ALTER TYPE makes them mean something else';

-- a column is: attnum, type, is it bytea or a domain over it and, behind a dot, marks of its type; name
CREATE FUNCTION trucker.input_columns(input oid, OUT columns text[], OUT defaulted int2[])
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT array_agg(concat_ws(' ', a.attnum, a.atttypid, b.is_bytea::int || coalesce(CASE WHEN t.typtype <> 'b' OR t.typelem <> 0 THEN '.' || trucker.type_marks(a.atttypid) END, ''), a.attname) ORDER BY a.attnum),
		   array_agg(a.attnum) FILTER (WHERE a.atthasdef OR a.atthasmissing OR a.attidentity <> '' OR t.typdefault IS NOT NULL)
	FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
	CROSS JOIN LATERAL (SELECT t.oid = 'bytea'::regtype OR t.typtype = 'd' AND EXISTS (
		WITH RECURSIVE below(type) AS (
			SELECT t.typbasetype
			UNION ALL
			SELECT d.typbasetype FROM below JOIN pg_type d ON d.oid = below.type AND d.typtype = 'd'
		)
		SELECT FROM below WHERE type = 'bytea'::regtype) AS is_bytea) b
	WHERE a.attrelid = input_columns.input AND a.attnum > 0 AND NOT a.attisdropped;
END;
COMMENT ON FUNCTION trucker.input_columns(oid) IS
'the columns of an input table as trucker.input_table keeps them';

-- Attnums mean what they meant as long as this is the same.
CREATE FUNCTION trucker.columns_made_of(input oid)
RETURNS text LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT md5(string_agg(concat_ws(' ', a.attnum, a.attname), ',' ORDER BY a.attnum))
	FROM pg_attribute a WHERE a.attrelid = columns_made_of.input AND a.attnum > 0 AND NOT a.attisdropped;
END;
COMMENT ON FUNCTION trucker.columns_made_of(oid) IS
'stands for the names and numbers of a table''s columns';

CREATE FUNCTION trucker.decode_wal2json(
	message text,
	OUT n integer, OUT operation text, OUT schema_name text, OUT table_name text, OUT xid bigint,
	OUT lsn pg_lsn, OUT end_lsn pg_lsn, OUT committed_at timestamptz,
	OUT new_names text[], OUT new_types text[], OUT new_values text[],
	OUT old_names text[], OUT old_types text[], OUT old_values text[],
	OUT transactional boolean, OUT prefix text, OUT content text)
RETURNS SETOF record LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 10
AS 'MODULE_PATHNAME', 'trucker_decode_wal2json';
COMMENT ON FUNCTION trucker.decode_wal2json(text) IS
'the changes of a message of the output plugin wal2json, of format version 1 or 2, as rows';

CREATE FUNCTION trucker.check(
	truck text DEFAULT NULL,
	OUT item text, OUT ok boolean, OUT detail text, OUT hint text)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_check';
COMMENT ON FUNCTION trucker.check(text) IS
'all that start() looks at, for one truck (NULL: each of the caller''s), and the room for WAL: what is as it must be, what is not, and what to do about it';

CREATE FUNCTION trucker.check_replica_identity(
	input_table regclass,
	OUT logged_table regclass, OUT truck text, OUT needs text, OUT has text, OUT ok boolean, OUT alter_table text)
RETURNS SETOF record LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'trucker_check_replica_identity';
COMMENT ON FUNCTION trucker.check_replica_identity(regclass) IS
'what each truck that reads a table needs of its replica identity, what the table has, and the ALTER TABLE to run if that is not enough';

CREATE FUNCTION trucker.drop_orphans()
RETURNS SETOF text LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_drop_orphans';
COMMENT ON FUNCTION trucker.drop_orphans() IS
'drop the replication slots of this database that have trucker''s prefix and that no stream needs; returns their names';

CREATE FUNCTION trucker.prepare_upgrade(
	timeout interval DEFAULT '1 min',
	OUT item text, OUT ok boolean, OUT detail text, OUT hint text)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_prepare_upgrade';
COMMENT ON FUNCTION trucker.prepare_upgrade(interval) IS
'before pg_upgrade, when the application has stopped writing: let the caller''s trucks apply all there is, note that, and stop them; what is as it must be, what is not, and what to do next';

-- Is a destination right?  (verify.c)
CREATE FUNCTION trucker.verify(
	truck text, key_columns text[], expected_sql text, destination text DEFAULT NULL, timeout interval DEFAULT '1 min',
	OUT key jsonb, OUT difference text, OUT expected jsonb, OUT actual jsonb)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_verify';
COMMENT ON FUNCTION trucker.verify(text, text[], text, text, interval) IS
'compare what a truck''s destination (NULL: its only output table) holds with what a query over the source returns, at one position: a row for each that is missing, unexpected or different';

-- Migrations.  Procedures, for they let go of their snapshot; the schema and the rows that
-- say what has been applied are in the database that is migrated.  (migrate.c)
CREATE PROCEDURE trucker.migrate(connection text)
LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_migrate';
COMMENT ON PROCEDURE trucker.migrate(text) IS
'run the migrations of a connection that are pending, by the files of the project in trucker.project_dir, and write its schema file';

CREATE PROCEDURE trucker.rollback(connection text, steps integer DEFAULT 1)
LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_rollback';
COMMENT ON PROCEDURE trucker.rollback(text, integer) IS
'undo the newest migrations of a connection by their "_down.sql", and write its schema file';

CREATE PROCEDURE trucker.load_schema(connection text)
LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_load_schema';
COMMENT ON PROCEDURE trucker.load_schema(text) IS
'set up the empty database of a connection from its schema file, and take the migrations that are in it for applied';

CREATE PROCEDURE trucker.dump_schema(connection text)
LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_dump_schema';
COMMENT ON PROCEDURE trucker.dump_schema(text) IS
'write the schema file of a connection, as migrate() and rollback() do';

CREATE PROCEDURE trucker.mark_migration(connection text, version text, applied boolean)
LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_mark_migration';
COMMENT ON PROCEDURE trucker.mark_migration(text, text, boolean) IS
'take a migration for applied, with its file as it is now, or forget that it was; nothing is run';

CREATE FUNCTION trucker.migration_status(
	OUT connection text, OUT version text, OUT name text, OUT applied_at timestamptz, OUT state text, OUT has_down boolean, OUT detail text)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_migration_status';
COMMENT ON FUNCTION trucker.migration_status() IS
'the migrations of the project in trucker.project_dir; the view trucker.migrations is made of it';

CREATE FUNCTION trucker.plan(
	dir text DEFAULT NULL,
	OUT kind text, OUT name text, OUT action text, OUT detail text)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_plan';
COMMENT ON FUNCTION trucker.plan(text) IS
'what load() would do: a row for each connection, user mapping and truck of a project, with what would change; or an error that lists all that is wrong with its files';

CREATE FUNCTION trucker.load(
	dir text DEFAULT NULL,
	OUT kind text, OUT name text, OUT action text, OUT detail text)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_load';
COMMENT ON FUNCTION trucker.load(text) IS
'make the trucks and connections of this database what the files of a project (NULL: that of trucker.project_dir) say, and drop those that it has made and that are no more in it';

-- Tests of a project's trucks, in databases of their own.  (harness.c)
CREATE FUNCTION trucker.test(
	truck text DEFAULT NULL, "case" text DEFAULT NULL,
	OUT truck text, OUT case_name text, OUT "row" integer, OUT ok boolean, OUT detail text)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_test';
COMMENT ON FUNCTION trucker.test(text, text) IS
'run the tests of the project in trucker.project_dir, or of one of its trucks, or one case: a row for each thing that was looked at';

CREATE FUNCTION trucker.test_tap(truck text DEFAULT NULL, "case" text DEFAULT NULL)
RETURNS SETOF text LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_test_tap';
COMMENT ON FUNCTION trucker.test_tap(text, text) IS
'the same in lines of TAP, version 13';

-- What a truck would do.  (explain.c)
CREATE FUNCTION trucker.explain(
	truck text, "rows" bigint DEFAULT 1,
	OUT input_table regclass, OUT operation text, OUT part text, OUT statement integer, OUT sql text, OUT plan text)
RETURNS SETOF record LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'trucker_explain';
COMMENT ON FUNCTION trucker.explain(text, bigint) IS
'a truck''s SQL, rendered for each of its input tables, and the plans for runs of about that many rows; nothing is executed';

CREATE FUNCTION trucker.dry_run(
	truck text, transactions integer DEFAULT 1,
	OUT commit_lsn pg_lsn, OUT xid bigint, OUT committed_at timestamptz, OUT outcome text, OUT input_table regclass,
	OUT inserts bigint, OUT updates bigint, OUT deletes bigint, OUT truncates bigint,
	OUT rows_in bigint, OUT rows_out bigint,
	OUT rows_inserted bigint, OUT rows_updated bigint, OUT rows_deleted bigint, OUT error text)
RETURNS SETOF record LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'trucker_dry_run';
COMMENT ON FUNCTION trucker.dry_run(text, integer) IS
'what a truck''s next source transactions would do, tried in a transaction at its destination that is rolled back; the position and the slot stay where they are';

CREATE FUNCTION trucker.graph(format text DEFAULT 'mermaid')
RETURNS text LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'trucker_graph';
COMMENT ON FUNCTION trucker.graph(text) IS
'which trucks read and write which tables, with the trucks'' states: for Mermaid, or as "dot" for Graphviz; shows what trucker.status shows to the caller';

CREATE FUNCTION trucker.fdw_validator(options text[], catalog oid)
RETURNS void LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'trucker_fdw_validator';
COMMENT ON FUNCTION trucker.fdw_validator(text[], oid) IS
'checks the options of foreign servers and user mappings of the wrapper trucker';

-- Connections are its servers.  There are no foreign tables, so there is no handler.
CREATE FOREIGN DATA WRAPPER trucker VALIDATOR trucker.fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER trucker IS
'connections: servers that trucks write to';

/*
 * Views.
 */
CREATE VIEW trucker.status WITH (security_barrier) AS
SELECT t.name AS truck,
	   -- DDL has marked it as lost: also while its worker has yet to hear of that
	   CASE WHEN u.reason IS NOT NULL OR (coalesce(s.lost, true) AND w.pid IS NULL) THEN 'lost'
			WHEN s.failed AND w.pid IS NULL THEN 'failed'
			WHEN NOT coalesce(s.enabled, false) THEN CASE WHEN w.pid IS NULL THEN 'stopped' ELSE 'stopping' END
			WHEN w.pid IS NULL AND pg_catalog.pg_is_in_recovery() THEN 'stopped'
			WHEN w.pid IS NULL THEN 'starting'
			ELSE w.state END AS state,
	   coalesce(w.since, u.since, CASE WHEN s.lost OR s.failed THEN s.last_error_at
										 WHEN NOT pg_catalog.pg_is_in_recovery() THEN s.enabled_at END) AS since,
	   x.name || CASE WHEN NOT x.home THEN ' (catch-up)' ELSE '' END AS stream,
	   coalesce(w.applied_lsn, greatest(p.lsn, s.applied_lsn)) AS position,
	   CASE WHEN coalesce(w.applied_lsn, p.lsn) IS NOT NULL
			THEN greatest(pg_catalog.pg_wal_lsn_diff(f.lsn, coalesce(w.applied_lsn, greatest(p.lsn, s.applied_lsn))), 0)::bigint END AS lag_bytes,
	   CASE WHEN w.applied_lsn >= f.lsn THEN 0
			ELSE extract(epoch FROM pg_catalog.clock_timestamp() - w.applied_at) END::float8 AS lag_seconds,
	   CASE WHEN s.enabled AND NOT s.lost AND u.reason IS NULL AND w.pid IS NULL AND NOT pg_catalog.pg_is_in_recovery()
			AND coalesce(v.waits_for_worker, v.pid IS NULL) THEN 'a background worker (max_worker_processes)'
			WHEN w.state = 'waiting' THEN 'a catch-up stream (trucker.max_catchup_streams, max_replication_slots)'
			WHEN w.state = 'backfill' AND w.pid = v.pid THEN 'its turn (trucker.max_backfills)'
			WHEN w.state = 'creating slot' THEN trucker.waiting_for(w.walsender_pid)
			WHEN w.pid IS NOT NULL THEN trucker.waiting_for(w.pid) END AS waiting_for,
	   -- an error of the truck's SQL may show values of rows
	   coalesce(u.reason, CASE WHEN s.lost OR pg_catalog.pg_has_role(t.owner, 'USAGE') THEN s.last_error
							   ELSE pg_catalog.left(s.last_error, 5) END) AS last_error,
	   coalesce(u.since, s.last_error_at) AS last_error_at,
	   CASE WHEN s.failed_lsn >= coalesce(greatest(w.applied_lsn, p.lsn, s.applied_lsn), '0/0') THEN s.failed_lsn END AS failed_lsn,
	   (SELECT count(*) FROM trucker.quarantined_change c WHERE c.truck_id = t.id) AS quarantined,
	   coalesce(w.next_retry_at, CASE WHEN v.pid IS NULL THEN v.launch_after END) AS next_retry_at,
	   CASE WHEN NOT s.lost AND u.reason IS NULL
			THEN trucker.wal_warning(x.slot_name, CASE WHEN NOT s.needs_backfill
													   THEN greatest(w.applied_lsn, p.lsn, s.applied_lsn) END) END AS warning
FROM trucker.truck t
LEFT JOIN trucker.truck_state s ON s.truck_id = t.id
LEFT JOIN trucker.stream x ON x.id = s.stream_id
LEFT JOIN trucker.position p ON p.truck_id = t.id
LEFT JOIN trucker.truck_workers() w ON w.truck_id = t.id AND w.stream_id = s.stream_id
LEFT JOIN trucker.stream_workers() v ON v.stream_id = s.stream_id
LEFT JOIN LATERAL (SELECT reason, since FROM trucker.unreadable_input WHERE truck_id = t.id
				   ORDER BY since LIMIT 1) u ON true
CROSS JOIN (SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn() END) AS f(lsn)
WHERE pg_catalog.pg_has_role(t.owner, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON VIEW trucker.status IS
'one row a truck: what it does, how far behind it is, what it waits for, and the last error; others'' trucks are shown to members of pg_read_all_stats';

-- Row data of the truck's inputs: for its owner's eyes only, not for pg_read_all_stats.
CREATE VIEW trucker.quarantine WITH (security_barrier) AS
SELECT q.id, c.seq, t.name AS truck, q.lsn, q.xid, q.committed_at, c.table_name, c.operation,
	   pg_catalog.jsonb_object(c.old_names, c.old_values) AS old,
	   pg_catalog.jsonb_object(c.new_names, c.new_values) AS new,
	   coalesce(q.error, 'one of its keys was in quarantine, since ' || q.behind) AS error,
	   q.behind, q.quarantined_at, q.retry AS to_be_retried, q.retried_at, q.retry_error
FROM trucker.truck t
JOIN trucker.quarantined_transaction q ON q.truck_id = t.id
JOIN trucker.quarantined_change c ON c.id = q.id
WHERE pg_catalog.pg_has_role(t.owner, 'USAGE');
COMMENT ON VIEW trucker.quarantine IS
'one row a change that is in quarantine, for the truck''s owner: its values, the error, and what became of retries';

CREATE VIEW trucker.slots WITH (security_barrier) AS
SELECT coalesce(r.slot_name::text, x.slot_name) AS slot_name,
	   x.name || CASE WHEN NOT x.home THEN ' (catch-up)' ELSE '' END AS stream,
	   x.owner,
	   t.trucks,
	   r.active_pid,
	   r.wal_status,
	   r.restart_lsn,
	   r.confirmed_flush_lsn AS confirmed_lsn,
	   greatest(pg_catalog.pg_wal_lsn_diff(f.lsn, r.restart_lsn), 0)::bigint AS kept_bytes,
	   CASE WHEN r.slot_name IS NULL AND v.pid IS NOT NULL THEN 'it is being made, or has been dropped under its stream'
			WHEN r.slot_name IS NULL THEN 'it does not exist: its trucks are lost'
			WHEN x.id IS NULL AND r.active_pid IS NOT NULL THEN 'no stream needs it, but a process holds it'
			WHEN x.id IS NULL THEN 'no stream needs it: trucker.drop_orphans()'
			WHEN r.wal_status = 'lost' THEN 'the server has removed WAL that it needs: its trucks are lost'
			WHEN t.trucks IS NULL THEN 'its stream carries no truck: it is about to be dropped, or one is about to come'
			WHEN t.running IS NOT NULL AND t.resting IS NULL THEN 'running: ' || t.running
			WHEN t.running IS NOT NULL THEN 'running: ' || t.running || '; stopped or failed: ' || t.resting
			ELSE 'stopped or failed, and yet to read on: ' || t.resting END AS kept_for
FROM (SELECT * FROM pg_catalog.pg_replication_slots
	  WHERE database = pg_catalog.current_database() AND NOT temporary
	  AND slot_name::text ~ ('^trucker_' || (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) || '_[0-9a-f]{16}$')) r
FULL JOIN (SELECT * FROM trucker.stream WHERE slot_name IS NOT NULL) x ON x.slot_name = r.slot_name::text
LEFT JOIN trucker.stream_workers() v ON v.stream_id = x.id
LEFT JOIN LATERAL (
	SELECT pg_catalog.array_agg(t.name ORDER BY t.name) AS trucks,
		   pg_catalog.string_agg(t.name, ', ' ORDER BY t.name) FILTER (WHERE s.enabled) AS running,
		   pg_catalog.string_agg(t.name, ', ' ORDER BY t.name) FILTER (WHERE NOT s.enabled) AS resting
	FROM trucker.truck_state s JOIN trucker.truck t ON t.id = s.truck_id
	WHERE s.stream_id = x.id) t ON true
CROSS JOIN (SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn() END) AS f(lsn)
WHERE pg_catalog.pg_has_role(x.owner, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON VIEW trucker.slots IS
'one row a replication slot of trucker''s in this database: who uses it, what WAL the server keeps for it, and why; others'' and nobody''s slots are shown to members of pg_read_all_stats';

CREATE VIEW trucker.publications WITH (security_barrier) AS
SELECT p.publication || CASE WHEN m.inserts AND NOT m.complete THEN '_i' ELSE '' END AS publication,
	   p.relid::regclass AS input_table,
	   CASE WHEN m.complete THEN 'insert, update, delete, truncate' WHEN m.inserts THEN 'insert, truncate' END AS published,
	   l.columns,
	   p.usable_lsn AS usable_from_lsn,
	   x.streams,
	   t.trucks,
	   t.by_former_definition,
	   CASE WHEN NOT m.complete AND NOT m.inserts THEN 'it is not in the publication any more: its trucks are lost'
			WHEN NOT m.complete AND NOT p.inserts_only THEN 'it has lost its replica identity: trucks that read updates and deletes are lost'
			WHEN t.trucks IS NULL THEN 'no truck reads it: it is about to be taken out'
			WHEN p.usable_lsn IS NULL THEN 'for slots that are made from now on; for others when the transactions have ended that ran when it was added'
			ELSE 'published' END AS state
FROM trucker.published_table p
CROSS JOIN LATERAL (
	SELECT coalesce((SELECT c.relkind = 'p' FROM pg_catalog.pg_class c WHERE c.oid = p.relid), false)
		   OR 'all' = ANY (b.kinds) AS complete, 'inserts' = ANY (b.kinds) AS inserts
	FROM (SELECT coalesce(pg_catalog.array_agg(CASE WHEN b.pubname::text = p.publication THEN 'all' ELSE 'inserts' END), '{}') AS kinds
		  FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication b ON b.oid = r.prpubid
		  WHERE r.prrelid = p.relid AND b.pubname::text IN (p.publication, p.publication || '_i')) b) m
LEFT JOIN LATERAL (
	-- of a partitioned table what some partition has
	SELECT CASE WHEN pg_catalog.bool_and(r.prattrs IS NOT NULL) THEN
		   (SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
			WHERE a.attrelid = p.relid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname = ANY (pg_catalog.array_agg(n.attname))) END AS columns
	FROM (SELECT p.relid AS leaf UNION SELECT d.relid FROM pg_catalog.pg_partition_tree(p.relid::regclass) d) i
	JOIN pg_catalog.pg_publication_rel r ON r.prrelid = i.leaf
	JOIN pg_catalog.pg_publication b ON b.oid = r.prpubid AND b.pubname::text IN (p.publication, p.publication || '_i')
	LEFT JOIN pg_catalog.pg_attribute n ON n.attrelid = i.leaf AND n.attnum = ANY (r.prattrs::int2[])) l ON true
LEFT JOIN LATERAL (
	SELECT pg_catalog.array_agg(x.name || CASE WHEN NOT x.home THEN ' (catch-up)' ELSE '' END ORDER BY NOT x.home, x.id) AS streams,
		   pg_catalog.bool_or(pg_catalog.pg_has_role(x.owner, 'USAGE')) AS is_visible
	FROM trucker.stream x WHERE x.publication = p.publication) x ON true
LEFT JOIN LATERAL (
	SELECT pg_catalog.array_agg(t.name ORDER BY t.name) AS trucks,
		   pg_catalog.array_agg(pg_catalog.concat(t.name, ' until ' || f.switches_at) ORDER BY t.name) FILTER (WHERE f.in_force) AS by_former_definition
	FROM trucker.truck t LEFT JOIN trucker.former_truck f ON f.truck_id = t.id WHERE p.relid = ANY (t.input_tables::oid[]) AND
	((t.owner, t.run_as, coalesce(t.options->>'stream', 'main')) IN (SELECT x.owner, x.run_as, x.name FROM trucker.stream x WHERE x.publication = p.publication)
	 OR t.id IN (SELECT s.truck_id FROM trucker.truck_state s JOIN trucker.stream x ON x.id = s.stream_id WHERE x.publication = p.publication))) t ON true
WHERE x.is_visible OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON VIEW trucker.publications IS
'one row an input table that trucker publishes (if it is partitioned: its partitions) for streams that pgoutput decodes: in which publication, with which columns (NULL: all), for which streams and trucks, and from where in the WAL on it can be relied upon';

CREATE VIEW trucker.former_definitions WITH (security_barrier) AS
SELECT t.name AS truck, f.switches_at, f.since,
	   CASE WHEN NOT f.in_force THEN 'its worker has yet to find out whether the former definition is needed'
			WHEN f.switches_at IS NULL THEN 'the columns that the new definition reads are published, but transactions run that may not write them'
			ELSE 'the new definition takes effect with what commits at or after switches_at' END AS state,
	   f.input_tables::regclass[] AS input_tables, f.input_sql, f.output_sql, f.options, f.search_path
FROM trucker.former_truck f JOIN trucker.truck t ON t.id = f.truck_id
WHERE pg_catalog.pg_has_role(t.owner, 'USAGE');
COMMENT ON VIEW trucker.former_definitions IS
'trucks of the caller''s that have been altered and still run what they were before, as what they have yet to apply does not carry all columns that the new definition reads';

CREATE VIEW trucker.migrations AS
SELECT connection, version, name, applied_at, state, has_down, detail FROM trucker.migration_status();
COMMENT ON VIEW trucker.migrations IS
'one row a migration of the project in trucker.project_dir: has it been applied, and what is wrong with it; each connection is asked';

/*
 * What trucks and streams have done.  (stats_api.c, shmem_stats.c)
 */
CREATE FUNCTION trucker.truck_stats(
	OUT truck text, OUT rows_inserted bigint, OUT rows_updated bigint, OUT rows_deleted bigint, OUT truncates bigint,
	OUT rows_backfilled bigint, OUT runs bigint, OUT batches bigint, OUT transactions bigint, OUT bytes bigint,
	OUT decode_ms float8, OUT input_ms float8, OUT output_ms float8, OUT commit_ms float8,
	OUT latency_p50_ms float8, OUT latency_p95_ms float8, OUT latency_p99_ms float8,
	OUT errors bigint, OUT retries bigint, OUT stats_reset timestamptz)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_truck_stats';
COMMENT ON FUNCTION trucker.truck_stats() IS
'what trucks have done, as shared memory knows it; the view trucker.stat_truck shows it';

CREATE FUNCTION trucker.stream_stats(
	OUT stream text, OUT home boolean, OUT owner regrole, OUT slot_name text, OUT pid integer, OUT walsender_pid integer,
	OUT applied_lsn pg_lsn, OUT applied_at timestamptz, OUT transactions bigint, OUT changes bigint, OUT bytes bigint,
	OUT spills bigint, OUT reconnects bigint, OUT decode_ms float8, OUT errors bigint, OUT stats_reset timestamptz)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_stream_stats';
COMMENT ON FUNCTION trucker.stream_stats() IS
'what streams have done, as shared memory knows it; the view trucker.stat_stream is made of it';

CREATE FUNCTION trucker.backfills(
	OUT truck text, OUT input_table regclass, OUT table_number integer, OUT tables integer, OUT rows_done bigint,
	OUT estimated_rows float8, OUT started_at timestamptz, OUT pid integer)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_backfills';
COMMENT ON FUNCTION trucker.backfills() IS
'the tables that are being backfilled, as shared memory knows it; the view trucker.backfill_progress is made of it';

CREATE FUNCTION trucker.reset_stats(truck text DEFAULT NULL)
RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_reset_stats';
COMMENT ON FUNCTION trucker.reset_stats(text) IS
'let the figures of a truck (NULL: of each of the caller''s trucks and streams) begin at zero';

CREATE VIEW trucker.stat_truck AS
SELECT * FROM trucker.truck_stats();
COMMENT ON VIEW trucker.stat_truck IS
'one row a truck: what it has applied, in what time, and how soon after the commit; NULL: it has not run since the server has, or others have taken its place in shared memory; others'' trucks are shown to members of pg_read_all_stats';

CREATE VIEW trucker.stat_stream AS
SELECT s.stream || CASE WHEN NOT s.home THEN ' (catch-up)' ELSE '' END AS stream,
	   s.owner,
	   r.plugin::text AS plugin,
	   s.transactions AS received_transactions,
	   s.changes AS received_changes,
	   s.bytes AS received_bytes,
	   s.spills,
	   d.spill_count AS walsender_spills,
	   s.reconnects,
	   s.errors,
	   s.decode_ms,
	   CASE WHEN s.applied_lsn IS NOT NULL
			THEN greatest(pg_catalog.pg_wal_lsn_diff(f.lsn, s.applied_lsn), 0)::bigint END AS lag_bytes,
	   CASE WHEN s.applied_lsn >= f.lsn THEN 0
			ELSE extract(epoch FROM pg_catalog.clock_timestamp() - s.applied_at) END::float8 AS lag_seconds,
	   s.pid,
	   s.walsender_pid,
	   s.slot_name,
	   s.stats_reset
FROM trucker.stream_stats() s
LEFT JOIN pg_catalog.pg_replication_slots r ON r.slot_name::text = s.slot_name
LEFT JOIN LATERAL pg_catalog.pg_stat_get_replication_slot(r.slot_name::text) d ON true
CROSS JOIN (SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn() END) AS f(lsn);
COMMENT ON VIEW trucker.stat_stream IS
'one row a stream: what it has received and decoded, how far behind it is, and its processes; others'' streams are shown to members of pg_read_all_stats';

CREATE VIEW trucker.backfill_progress AS
SELECT b.truck,
	   b.input_table,
	   b.table_number,
	   b.tables,
	   b.rows_done,
	   greatest(b.estimated_rows, b.rows_done)::bigint AS estimated_rows,
	   -- all is only done when the row has gone
	   CASE WHEN b.estimated_rows > 0
			THEN least(pg_catalog.round((100 * b.rows_done / greatest(b.estimated_rows, b.rows_done))::numeric, 1), 99.9) END AS percent,
	   b.rows_done / t.seconds AS rows_per_second,
	   CASE WHEN b.rows_done > 0
			THEN pg_catalog.make_interval(secs => greatest(b.estimated_rows - b.rows_done, 0) * t.seconds / b.rows_done) END AS time_left,
	   b.started_at,
	   b.pid
FROM trucker.backfills() b
CROSS JOIN LATERAL (
	SELECT greatest(extract(epoch FROM pg_catalog.clock_timestamp() - b.started_at), 0.000001)::float8 AS seconds) t;
COMMENT ON VIEW trucker.backfill_progress IS
'one row a truck that is being backfilled: which table is read, how many of its rows have been, about how many there are, and how long that will take; others'' trucks are shown to members of pg_read_all_stats';

/*
 * The same for Prometheus and its like.
 */
CREATE FUNCTION trucker.truck_latencies(
	OUT truck text, OUT bucket integer, OUT seconds float8, OUT transactions bigint, OUT sum_seconds float8)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'trucker_truck_latencies';
COMMENT ON FUNCTION trucker.truck_latencies() IS
'how many source transactions of each truck could be seen at the destination up to that long after their commit (NULL: all), and the sum of all of these times';

-- labels of a metric: names and values by turns; one without a name is left out
CREATE FUNCTION trucker.metric_labels(VARIADIC pairs text[])
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
	SELECT '{' || string_agg(name || '="' || replace(replace(replace(value, E'\\', E'\\\\'), '"', E'\\"'), E'\n', E'\\n') || '"', ',' ORDER BY n) || '}'
	FROM (SELECT 0 AS n, 'database' AS name, current_database()::text AS value
		  UNION ALL
		  SELECT n, pairs[2 * n - 1], pairs[2 * n] FROM generate_series(1, cardinality(pairs) / 2) AS n) AS label
	WHERE name IS NOT NULL;
END;
COMMENT ON FUNCTION trucker.metric_labels(text[]) IS
'labels as OpenMetrics writes them, with the database as the first';

CREATE FUNCTION trucker.openmetrics()
RETURNS text LANGUAGE sql
SET search_path = pg_catalog, pg_temp
SET extra_float_digits = 1
BEGIN ATOMIC
	WITH family (n, name, type, unit, help) AS (VALUES
		(1, 'trucker_truck_state', 'gauge', NULL, 'The state that the truck is in, as the view trucker.status shows it: always 1.'),
		(2, 'trucker_truck_lag_bytes', 'gauge', 'bytes', 'WAL that has been written since what the truck has applied.'),
		(3, 'trucker_truck_lag_seconds', 'gauge', 'seconds', 'Age of what the truck has applied last; 0: nothing is behind.'),
		(4, 'trucker_truck_quarantined_changes', 'gauge', NULL, 'Changes that the truck has in quarantine.'),
		(5, 'trucker_truck_waiting', 'gauge', NULL, 'Does the truck wait for a lock, a process or a slot?'),
		(6, 'trucker_truck_wal_warning', 'gauge', NULL, 'Is more than half of trucker.max_retained_wal kept for the truck?'),
		(10, 'trucker_truck_rows', 'counter', NULL, 'Changes of input tables that have been applied, and rows that have been backfilled.'),
		(11, 'trucker_truck_truncates', 'counter', NULL, 'TRUNCATEs of input tables that truncate_sql has been run for.'),
		(12, 'trucker_truck_runs', 'counter', NULL, 'Runs that have been committed.'),
		(13, 'trucker_truck_batches', 'counter', NULL, 'Destination transactions that have been committed.'),
		(14, 'trucker_truck_transactions', 'counter', NULL, 'Source transactions that have been applied.'),
		(15, 'trucker_truck_read_bytes', 'counter', 'bytes', 'Size of the messages of the output plugin about these changes.'),
		(16, 'trucker_truck_busy_seconds', 'counter', 'seconds', 'Time that the committed batches have taken, by what was done.'),
		(17, 'trucker_truck_errors', 'counter', NULL, 'Attempts that an error has ended.'),
		(18, 'trucker_truck_retries', 'counter', NULL, 'Attempts that were made after an error.'),
		(19, 'trucker_truck_latency_seconds', 'histogram', 'seconds', 'Time from the commit of a source transaction until it could be seen at the destination.'),
		(30, 'trucker_stream_running', 'gauge', NULL, 'Has the stream a worker?'),
		(31, 'trucker_stream_lag_bytes', 'gauge', 'bytes', 'WAL that has been written since what the stream has applied.'),
		(32, 'trucker_stream_lag_seconds', 'gauge', 'seconds', 'Age of what the stream has applied last; 0: nothing is behind.'),
		(33, 'trucker_stream_received_transactions', 'counter', NULL, 'Source transactions with changes that have been received.'),
		(34, 'trucker_stream_received_changes', 'counter', NULL, 'Changes that have been received.'),
		(35, 'trucker_stream_received_bytes', 'counter', 'bytes', 'Size of all messages that have been received.'),
		(36, 'trucker_stream_spills', 'counter', NULL, 'Batches that were larger than trucker.batch_memory.'),
		(37, 'trucker_stream_reconnects', 'counter', NULL, 'Replication connections after the first.'),
		(38, 'trucker_stream_errors', 'counter', NULL, 'Errors of the stream itself.'),
		(39, 'trucker_stream_busy_seconds', 'counter', 'seconds', 'Time in which the stream has received and decoded changes.'),
		(50, 'trucker_backfill_read_rows', 'gauge', NULL, 'Rows that a running backfill has read of its table.'),
		(51, 'trucker_backfill_estimated_rows', 'gauge', NULL, 'Rows that the table of a running backfill has, about.'),
		(60, 'trucker_slot_kept_bytes', 'gauge', 'bytes', 'WAL that the server keeps for the replication slot.')
	), stream AS (
		-- there may be several catch-up streams of one name
		SELECT stream, owner::text AS owner, count(pid) AS running, max(lag_bytes) AS lag_bytes, max(lag_seconds) AS lag_seconds,
			   sum(received_transactions) AS transactions, sum(received_changes) AS changes, sum(received_bytes) AS bytes,
			   sum(spills) AS spills, sum(reconnects) AS reconnects, sum(errors) AS errors, sum(decode_ms) AS decode_ms
		FROM trucker.stat_stream GROUP BY 1, 2
	), sample (n, place, number, suffix, labels, value) AS (
		SELECT v.n, t.truck, 1, '', trucker.metric_labels('truck', t.truck, v.label, v.label_value), v.value
		FROM trucker.status t CROSS JOIN LATERAL (VALUES
			(1, 'state', t.state, '1'),
			(2, NULL, NULL, t.lag_bytes::text),
			(3, NULL, NULL, t.lag_seconds::text),
			(4, NULL, NULL, t.quarantined::text),
			(5, NULL, NULL, (t.waiting_for IS NOT NULL)::int::text),
			(6, NULL, NULL, (t.warning IS NOT NULL)::int::text)) AS v (n, label, label_value, value)
		UNION ALL
		SELECT v.n, t.truck, v.number, '_total', trucker.metric_labels('truck', t.truck, v.label, v.label_value), v.value
		FROM trucker.stat_truck t CROSS JOIN LATERAL (VALUES
			(10, 1, 'operation', 'insert', t.rows_inserted::text),
			(10, 2, 'operation', 'update', t.rows_updated::text),
			(10, 3, 'operation', 'delete', t.rows_deleted::text),
			(10, 4, 'operation', 'backfill', t.rows_backfilled::text),
			(11, 1, NULL, NULL, t.truncates::text),
			(12, 1, NULL, NULL, t.runs::text),
			(13, 1, NULL, NULL, t.batches::text),
			(14, 1, NULL, NULL, t.transactions::text),
			(15, 1, NULL, NULL, t.bytes::text),
			(16, 1, 'phase', 'decode', (t.decode_ms / 1000)::text),
			(16, 2, 'phase', 'input', (t.input_ms / 1000)::text),
			(16, 3, 'phase', 'output', (t.output_ms / 1000)::text),
			(16, 4, 'phase', 'commit', (t.commit_ms / 1000)::text),
			(17, 1, NULL, NULL, t.errors::text),
			(18, 1, NULL, NULL, t.retries::text)) AS v (n, number, label, label_value, value)
		UNION ALL
		SELECT 19, l.truck, l.bucket, v.suffix, trucker.metric_labels('truck', l.truck, v.label, v.label_value), v.value
		FROM trucker.truck_latencies() l CROSS JOIN LATERAL (VALUES
			('_bucket', 'le', CASE WHEN l.seconds IS NULL THEN '+Inf'
								   WHEN l.seconds::text ~ '[.e]' THEN l.seconds::text ELSE l.seconds::text || '.0' END, l.transactions::text),
			-- behind the last one
			('_count', NULL, NULL, CASE WHEN l.seconds IS NULL THEN l.transactions::text END),
			('_sum', NULL, NULL, CASE WHEN l.seconds IS NULL THEN l.sum_seconds::text END)) AS v (suffix, label, label_value, value)
		UNION ALL
		SELECT v.n, s.stream, 1, v.suffix, trucker.metric_labels('stream', s.stream, 'owner', s.owner), v.value
		FROM stream s CROSS JOIN LATERAL (VALUES
			(30, '', (s.running > 0)::int::text),
			(31, '', s.lag_bytes::text),
			(32, '', s.lag_seconds::text),
			(33, '_total', s.transactions::text),
			(34, '_total', s.changes::text),
			(35, '_total', s.bytes::text),
			(36, '_total', s.spills::text),
			(37, '_total', s.reconnects::text),
			(38, '_total', s.errors::text),
			(39, '_total', (s.decode_ms / 1000)::text)) AS v (n, suffix, value)
		UNION ALL
		SELECT v.n, b.truck, 1, '', trucker.metric_labels('truck', b.truck, 'input_table', b.input_table::text), v.value
		FROM trucker.backfill_progress b CROSS JOIN LATERAL (VALUES
			(50, b.rows_done::text),
			(51, b.estimated_rows::text)) AS v (n, value)
		UNION ALL
		SELECT 60, l.slot_name, 1, '', trucker.metric_labels('slot_name', l.slot_name, CASE WHEN l.stream IS NOT NULL THEN 'stream' END, l.stream), l.kept_bytes::text
		FROM trucker.slots l
	), written AS (
		SELECT n, string_agg((SELECT f.name FROM family f WHERE f.n = s.n) || suffix || labels || ' ' || value, E'\n'
							 ORDER BY place COLLATE "C", number, suffix COLLATE "C") AS samples
		FROM sample s WHERE value IS NOT NULL GROUP BY n
	)
	SELECT string_agg('# TYPE ' || f.name || ' ' || f.type || coalesce(E'\n# UNIT ' || f.name || ' ' || f.unit, '')
					  || E'\n# HELP ' || f.name || ' ' || f.help || coalesce(E'\n' || w.samples, '') || E'\n', '' ORDER BY f.n) || E'# EOF\n'
	FROM family f LEFT JOIN written w USING (n);
END;
COMMENT ON FUNCTION trucker.openmetrics() IS
'what there is to know of trucks and streams, for Prometheus and its like: in the text format of OpenMetrics';

/*
 * Rights.  A truck holds back WAL and takes a worker and a slot, so making and
 * running one is granted by the database's owner, not open to all.
 */
REVOKE ALL ON FUNCTION
	trucker.create_truck(text, regclass[], text, text, name, jsonb),
	trucker.alter_truck(text, regclass[], text, text, jsonb),
	trucker.drop_truck(text), trucker.start(text), trucker.stop(text),
	trucker.resync(text), trucker.wait_for(text, pg_lsn, interval),
	trucker.retry_quarantined(bigint), trucker.retry_quarantined(text),
	trucker.discard_quarantined(bigint), trucker.discard_quarantined(text),
	trucker.skip(text, pg_lsn), trucker.input_parts(oid), trucker.input_columns(oid), trucker.type_marks(oid), trucker.columns_made_of(oid),
	trucker.set_output_plugin(text, text), trucker.check(text), trucker.drop_orphans(),
	trucker.verify(text, text[], text, text, interval), trucker.prepare_upgrade(interval),
	trucker.generated_sql(text), trucker.plan(text), trucker.load(text),
	trucker.test(text, text), trucker.test_tap(text, text),
	trucker.explain(text, bigint), trucker.dry_run(text, integer), trucker.reset_stats(text), trucker.openmetrics(),
	trucker.fdw_validator(text[], oid), trucker.migration_status()
FROM PUBLIC;
REVOKE ALL ON PROCEDURE
	trucker.migrate(text), trucker.rollback(text, integer), trucker.load_schema(text), trucker.dump_schema(text),
	trucker.mark_migration(text, text, boolean)
FROM PUBLIC;
GRANT USAGE ON SCHEMA trucker TO PUBLIC;
GRANT SELECT ON trucker.status, trucker.quarantine, trucker.slots, trucker.publications, trucker.former_definitions TO PUBLIC;
GRANT SELECT ON trucker.stat_truck, trucker.stat_stream, trucker.backfill_progress TO PUBLIC;
GRANT EXECUTE ON FUNCTION trucker.openmetrics() TO pg_monitor;
