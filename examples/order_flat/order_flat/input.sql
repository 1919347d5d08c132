{{ if eq .input_table "public.orders" -}}
	SELECT r.old__id, r.id, c.name AS customer, p.name AS product, r.quantity * p.price AS amount
	FROM r
	LEFT JOIN customers AS c ON c.id = r.customer_id
	LEFT JOIN products AS p ON p.id = r.product_id
{{- else if eq .input_table "public.customers" -}}
	-- all orders of a customer who has changed; one who goes takes none with him
	SELECT NULL::bigint AS old__id, o.id, c.name AS customer, p.name AS product, o.quantity * p.price AS amount
	FROM r
	JOIN customers AS c ON c.id = r.id
	JOIN orders AS o ON o.customer_id = c.id
	JOIN products AS p ON p.id = o.product_id
	WHERE r.meta__operation = 'update'
{{- else -}}
	SELECT NULL::bigint AS old__id, o.id, c.name AS customer, p.name AS product, o.quantity * p.price AS amount
	FROM r
	JOIN products AS p ON p.id = r.id
	JOIN orders AS o ON o.product_id = p.id
	JOIN customers AS c ON c.id = o.customer_id
	WHERE r.meta__operation = 'update'
{{- end }}
