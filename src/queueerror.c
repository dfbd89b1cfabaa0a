/*
 * src/queueerror.c
 *
 * What jobstate says of the families' tables and of the jobs in them, as far as
 * that is said from C; most of it is said in SQL.
 */
#include "postgres.h"

#include "utils/rel.h"

#include "error.h"

void
jobstate_error_no_family(const char *family, const char *relation)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("relation \"jobstate.%s\" does not exist", relation),
			 errhint("SELECT jobstate.install('%s') makes it.", family)));
}

void
jobstate_error_no_slot(Relation rel, int slot)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("relation \"%s\" has no partition for slot %d",
					RelationGetRelationName(rel), slot),
			 errhint("SELECT jobstate.install('queue') makes it.")));
}

void
jobstate_error_not_by_slot(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("relation \"%s\" is not partitioned by list of a slot of type smallint",
					RelationGetRelationName(rel))));
}

void
jobstate_error_ring_emptied(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not look up a job in an old snapshot"),
			 errdetail("A slot of the queue's ring was emptied after this transaction's snapshot was taken."),
			 errhint("The transaction might succeed if retried.")));
}
