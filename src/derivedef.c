/*
 * src/derivedef.c
 *
 * Defining and undoing derivations.  What a definition has to be is checked in
 * SQL; here is what only the owner of both tables may do.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "attach.h"
#include "catalog.h"
#include "error.h"
#include "touched.h"

PG_FUNCTION_INFO_V1(jobstate_derivation_add);
PG_FUNCTION_INFO_V1(jobstate_derivation_drop);

/*
 * Keeps writers out of both tables, so that what is derived first is whole: the
 * child's before the parent's, as writers come by.  One definition at a time,
 * so that two that are right each do not go round in a circle.
 */
static void
lock_owned(Oid parent, Oid child)
{
	jobstate_require_owner(parent);
	jobstate_require_owner(child);
	LockRelationOid(child, ShareRowExclusiveLock);
	LockRelationOid(parent, ShareRowExclusiveLock);
	LockRelationOid(jobstate_catalog()->derivation, ShareRowExclusiveLock);
}

/* Does the state of one table follow from the other's, however far above? */
static bool
is_above(Oid above, Oid below)
{
	ListCell   *cell;

	check_stack_depth();
	if (above == below)
		return true;
	foreach(cell, jobstate_derivations_of_child(below))
		if (is_above(above, ((JobstateDerivation *) lfirst(cell))->parent))
			return true;
	return false;
}

static void
require_few_keys(ArrayType *key)
{
	int			n = ArrayGetNItems(ARR_NDIM(key), ARR_DIMS(key));

	if (n > JOBSTATE_MAX_GROUP)
		jobstate_error_too_many_keys(n, JOBSTATE_MAX_GROUP);
}

static bool
exists(Oid parent, Oid child)
{
	ListCell   *cell;

	foreach(cell, jobstate_derivations_of_parent(parent))
		if (((JobstateDerivation *) lfirst(cell))->child == child)
			return true;
	return false;
}

/* derivation_add(row of jobstate.derivation, without ord) returns void */
Datum
jobstate_derivation_add(PG_FUNCTION_ARGS)
{
	Oid			types[] = {REGCLASSOID, REGCLASSOID, NAMEARRAYOID, TEXTOID, NAMEOID,
	NAMEOID, NAMEOID, NAMEOID, NAMEOID, NAMEARRAYOID};
	Datum		values[lengthof(types)];
	char		nulls[lengthof(types) + 1] = "";
	Oid			parent = PG_GETARG_OID(0);
	Oid			child = PG_GETARG_OID(1);
	int			i;

	lock_owned(parent, child);
	(void) jobstate_attachment(parent);
	(void) jobstate_attachment(child);
	if (exists(parent, child))
		jobstate_error_derived_already(parent, child);
	if (is_above(child, parent))
		jobstate_error_derive_cycle(parent);
	if (!PG_ARGISNULL(2))
		require_few_keys(PG_GETARG_ARRAYTYPE_P(2));
	for (i = 0; i < lengthof(types); i++)
	{
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
		values[i] = PG_GETARG_DATUM(i);
	}
	jobstate_catalog_write("INSERT INTO jobstate.derivation"
			" SELECT $1, $2, 1 OPERATOR(pg_catalog.+) COALESCE(pg_catalog.max(d.ord), 0),"
			" $3, $4, $5, $6, $7, $8, $9, $10"
			" FROM jobstate.derivation d WHERE d.parent OPERATOR(pg_catalog.=) $1",
			lengthof(types), types, values, nulls, SPI_OK_INSERT);
	PG_RETURN_VOID();
}

/* derivation_drop(parent, child) returns void */
Datum
jobstate_derivation_drop(PG_FUNCTION_ARGS)
{
	Oid			types[] = {REGCLASSOID, REGCLASSOID};
	Datum		values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};

	jobstate_require_owner(PG_GETARG_OID(0));
	if (!exists(PG_GETARG_OID(0), PG_GETARG_OID(1)))
		jobstate_error_not_derived(PG_GETARG_OID(0));
	LockRelationOid(PG_GETARG_OID(0), ShareRowExclusiveLock);
	jobstate_catalog_write("DELETE FROM jobstate.derivation WHERE parent OPERATOR(pg_catalog.=) $1"
			" AND child OPERATOR(pg_catalog.=) $2",
			2, types, values, NULL, SPI_OK_DELETE);
	if (jobstate_derivations_of_parent(PG_GETARG_OID(0)) != NIL)
		jobstate_touch_all(PG_GETARG_OID(0));
	PG_RETURN_VOID();
}
