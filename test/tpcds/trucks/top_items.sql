-- The five items of each category that have brought in most: sums of all items are kept, and the
-- lists of the categories that are touched are made anew from these.
CREATE VIEW question.top_items AS
SELECT * FROM (
	SELECT i_category_id, row_number() OVER (PARTITION BY i_category_id ORDER BY paid DESC, ss_item_sk) AS place, ss_item_sk, paid
	FROM (SELECT ss_item_sk, sum(ss_net_paid) AS paid FROM store_sales GROUP BY ss_item_sk) AS s
	JOIN item ON i_item_sk = ss_item_sk) AS l
WHERE place <= 5;

CREATE TABLE kept.item_paid (item_sk integer PRIMARY KEY, category_id integer NOT NULL, paid numeric NOT NULL, lines bigint NOT NULL);
CREATE TABLE answer.top_items (category_id integer, place bigint, item_sk integer NOT NULL, paid numeric NOT NULL, PRIMARY KEY (category_id, place));

SELECT trucker.create_truck('top_items', '{store_sales}', input_sql => $$
	SELECT item_sk, i_category_id AS category_id, sum(paid) AS paid, sum(lines) AS lines
	FROM (SELECT ss_item_sk AS item_sk, ss_net_paid AS paid, 1 AS lines FROM r WHERE meta__operation <> 'delete'
		UNION ALL
		SELECT old__ss_item_sk, -old__ss_net_paid, -1 FROM r WHERE meta__operation <> 'insert') AS c
	JOIN item ON i_item_sk = item_sk
	GROUP BY item_sk, i_category_id
$$, output_sql => $$
	INSERT INTO kept.item_paid AS t SELECT item_sk, category_id, paid, lines FROM r
	ON CONFLICT (item_sk) DO UPDATE SET paid = t.paid + excluded.paid, lines = t.lines + excluded.lines;
	DELETE FROM kept.item_paid AS k USING r WHERE k.item_sk = r.item_sk AND k.lines = 0;

	MERGE INTO answer.top_items AS t
	USING (SELECT * FROM (
			SELECT category_id, row_number() OVER (PARTITION BY category_id ORDER BY paid DESC, item_sk) AS place, item_sk, paid
			FROM kept.item_paid WHERE category_id IN (SELECT category_id FROM r)) AS l
		WHERE place <= 5) AS s
	ON (t.category_id, t.place) = (s.category_id, s.place)
	WHEN MATCHED AND (t.item_sk, t.paid) <> (s.item_sk, s.paid) THEN UPDATE SET item_sk = s.item_sk, paid = s.paid
	WHEN NOT MATCHED THEN INSERT VALUES (s.category_id, s.place, s.item_sk, s.paid);
	DELETE FROM answer.top_items AS t
	WHERE t.category_id IN (SELECT category_id FROM r)
		AND t.place > (SELECT count(*) FROM kept.item_paid AS k WHERE k.category_id = t.category_id)
$$, options => '{"stream": "dsp", "reset_sql": "DELETE FROM answer.top_items; DELETE FROM kept.item_paid"}');
