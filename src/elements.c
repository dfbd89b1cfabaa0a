/*
 * src/elements.c
 *
 * The elements of an array that a function was given.
 */
#include "postgres.h"

#include "utils/array.h"
#include "utils/lsyscache.h"

#include "elements.h"

/* What is not given as an array has no elements. */
void
jobstate_elements_read(FunctionCallInfo fcinfo, int argno, Oid type,
					   JobstateElements *elements)
{
	int16		typlen;
	bool		typbyval;
	char		typalign;

	memset(elements, 0, sizeof(JobstateElements));
	if (PG_ARGISNULL(argno))
		return;
	get_typlenbyvalalign(type, &typlen, &typbyval, &typalign);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argno), type, typlen, typbyval, typalign,
					  &elements->value, &elements->isnull, &elements->n);
}
