-- Which lines were sold and did not come back?  An anti-join: for each key that either table's
-- changes name, the answer is looked up in the source as it is now.  What changes after that comes, too.
CREATE VIEW question.never_returned AS
SELECT ss_item_sk, ss_ticket_number, ss_store_sk, ss_net_paid
FROM store_sales
WHERE NOT EXISTS (SELECT FROM store_returns WHERE (sr_item_sk, sr_ticket_number) = (ss_item_sk, ss_ticket_number));

CREATE TABLE answer.never_returned (item_sk integer, ticket_number bigint, store_sk integer, net_paid numeric, PRIMARY KEY (item_sk, ticket_number));

SELECT trucker.create_truck('never_returned', '{store_sales, store_returns}', input_sql => $$
	SELECT k.item_sk, k.ticket_number, s.ss_store_sk AS store_sk, s.ss_net_paid AS net_paid,
		s.ss_item_sk IS NOT NULL AND t.sr_item_sk IS NULL AS belongs
	FROM (
	{{ if eq .input_table "tpcds.store_sales" }}
		SELECT ss_item_sk AS item_sk, ss_ticket_number AS ticket_number FROM r WHERE meta__operation <> 'delete'
		UNION
		SELECT old__ss_item_sk, old__ss_ticket_number FROM r WHERE meta__operation <> 'insert'
	{{ else }}
		SELECT sr_item_sk AS item_sk, sr_ticket_number AS ticket_number FROM r WHERE meta__operation <> 'delete'
		UNION
		SELECT old__sr_item_sk, old__sr_ticket_number FROM r WHERE meta__operation <> 'insert'
	{{ end }}
	) AS k
	LEFT JOIN store_sales AS s ON (s.ss_item_sk, s.ss_ticket_number) = (k.item_sk, k.ticket_number)
	LEFT JOIN store_returns AS t ON (t.sr_item_sk, t.sr_ticket_number) = (k.item_sk, k.ticket_number)
$$, output_sql => $$
	DELETE FROM answer.never_returned AS t USING r
	WHERE (t.item_sk, t.ticket_number) = (r.item_sk, r.ticket_number) AND NOT r.belongs;

	INSERT INTO answer.never_returned SELECT item_sk, ticket_number, store_sk, net_paid FROM r WHERE belongs
	ON CONFLICT (item_sk, ticket_number) DO UPDATE SET (store_sk, net_paid) = (excluded.store_sk, excluded.net_paid)
$$, options => $$ {"stream": "ds", "reset_sql": "DELETE FROM answer.never_returned", "on_truncate": "run", "truncate_sql":
	"DELETE FROM answer.never_returned; INSERT INTO answer.never_returned SELECT ss_item_sk, ss_ticket_number, ss_store_sk, ss_net_paid FROM store_sales WHERE NOT EXISTS (SELECT FROM store_returns WHERE (sr_item_sk, sr_ticket_number) = (ss_item_sk, ss_ticket_number))"} $$);
