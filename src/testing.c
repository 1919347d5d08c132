/*
 * testing.c
 *	  SQL-callable ways into parts of trucker that have none of their own.
 *
 * Regression tests should be able to hold a part by itself: a template without
 * a truck, a worker or a slot.  The functions here exist for that only.  They
 * are no part of the extension: its SQL script does not mention them, and a
 * test that wants one creates it, as superuser, with
 *
 *		CREATE FUNCTION ... AS 'trucker', 'trucker_test_...' LANGUAGE C STRICT
 *
 * A function here converts arguments and results, and does nothing else; what
 * is tested is then what trucker runs.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "template.h"

PG_FUNCTION_INFO_V1(trucker_test_render);
PG_FUNCTION_INFO_V1(trucker_test_uses_operation);

/*
 * trucker_test_render(template text, operation text) returns text
 *
 * The template rendered for a run of that operation on table public.t.
 */
Datum
trucker_test_render(PG_FUNCTION_ARGS)
{
	TruckerTemplateVars vars = {
		.rows = "r",
		.operation = text_to_cstring(PG_GETARG_TEXT_PP(1)),
		.input_table = "public.t"
	};
	TruckerTemplate *tmpl;

	tmpl = trucker_template_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)),
								  "template");
	PG_RETURN_TEXT_P(cstring_to_text(trucker_template_render(tmpl, &vars)));
}

/*
 * trucker_test_uses_operation(template text) returns bool
 *
 * Does the template name .operation?
 */
Datum
trucker_test_uses_operation(PG_FUNCTION_ARGS)
{
	TruckerTemplate *tmpl;

	tmpl = trucker_template_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)),
								  "template");
	PG_RETURN_BOOL(trucker_template_uses_operation(tmpl));
}
