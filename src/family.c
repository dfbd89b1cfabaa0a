/*
 * src/family.c
 *
 * What the families want done now and then.
 *
 * A family that has something to maintain has a function maintain_<family>(step
 * integer) returns boolean: true means that the same step has more to do, false
 * that the next one may come, null that there is none.  It runs as an owner of
 * attached tables, and says null where the family's are not his.  A step is
 * small, and a transaction of its own where the caller can commit.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "catalog.h"
#include "derive.h"
#include "error.h"
#include "family.h"

/*
 * The calls of those hooks that the current user may call, as text.  Only members
 * of the extension count that its tables' owner has, so nobody can plant one: the
 * database's owner, who may create the extension, can make his functions members.
 */
List *
jobstate_family_hooks(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *hooks = NIL;
	uint64		i;

	jobstate_spi_connect();
	if (SPI_execute("SELECT pg_catalog.format('SELECT jobstate.%I($1)', p.proname)"
					" FROM pg_catalog.pg_proc p"
					" JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) p.oid"
					" JOIN pg_catalog.pg_extension e ON d.refobjid OPERATOR(pg_catalog.=) e.oid"
					" WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass"
					" AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass"
					" AND d.deptype OPERATOR(pg_catalog.=) 'e'"
					" AND e.extname OPERATOR(pg_catalog.=) 'jobstate'"
					" AND p.proowner OPERATOR(pg_catalog.=) (SELECT c.relowner FROM pg_catalog.pg_class c"
					" WHERE c.oid OPERATOR(pg_catalog.=) 'jobstate.attachment'::pg_catalog.regclass)"
					" AND pg_catalog.starts_with(p.proname, 'maintain_')"
					" AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')"
					" ORDER BY p.proname", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the families");
	for (i = 0; i < SPI_processed; i++)
	{
		char	   *call = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		MemoryContext before = MemoryContextSwitchTo(context);

		hooks = lappend(hooks, pstrdup(call));
		MemoryContextSwitchTo(before);
	}
	jobstate_spi_finish();
	return hooks;
}

static JobstateFamilyStep
call_hook(const char *hook, int step)
{
	Oid			type = INT4OID;
	Datum		value = Int32GetDatum(step);
	bool		isnull;
	bool		more;

	jobstate_spi_connect();
	if (SPI_execute_with_args(hook, 1, &type, &value, NULL, false, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "unexpected result of \"%s\"", hook);
	more = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
									  1, &isnull));
	jobstate_spi_finish();
	if (isnull)
		return JOBSTATE_FAMILY_DONE;
	return more ? JOBSTATE_FAMILY_MORE : JOBSTATE_FAMILY_NEXT;
}

/*
 * A step that fails is left for the next time.  Where it only met somebody else
 * who was at work there is nothing to tell.
 */
static void
report_failure(const char *hook, ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		return;
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("a step of a family's maintenance failed"),
			 errdetail("%s: %s", hook, error->message),
			 error->hint ? errhint("%s", error->hint) : 0));
}

/*
 * Runs one step in a subtransaction, as the current user.  Parents of rows that it
 * changed are written within it: left to the commit, which has the rights of whoever
 * maintains, a deferred trigger of such a parent would run with them.  Here the
 * server refuses it, and what the step did is undone.
 */
JobstateFamilyStep
jobstate_family_maintain(const char *hook, int step)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile JobstateFamilyStep answer = JOBSTATE_FAMILY_NEXT;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		answer = call_hook(hook, step);
		jobstate_derive_pending();
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		report_failure(hook, error);
	}
	PG_END_TRY();
	return answer;
}
