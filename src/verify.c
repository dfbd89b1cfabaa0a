/*
 * src/verify.c
 *
 * What the counters say beside what is there, under one snapshot.
 */
#include "postgres.h"

#include "catalog/pg_inherits.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "counts.h"
#include "error.h"

PG_FUNCTION_INFO_V1(jobstate_verify);

static void
put_difference(ReturnSetInfo *rsinfo, JobstateAttachment *attachment,
			   JobstateSum *counted, JobstateSum *actual)
{
	JobstateMachine *machine = attachment->machine;
	int			i;

	for (i = 0; i < machine->nstates; i++)
	{
		int64		x = jobstate_sums_get(counted, machine->state[i].id);
		int64		y = jobstate_sums_get(actual, machine->state[i].id);
		Datum		values[5];
		bool		nulls[5] = {false};

		if (x == y)
			continue;
		values[0] = ObjectIdGetDatum(attachment->target);
		values[1] = JsonbPGetDatum(jobstate_key_to_jsonb(&attachment->key, counted->key));
		values[2] = CStringGetTextDatum(machine->state[i].name);
		values[3] = Int64GetDatum(x);
		values[4] = Int64GetDatum(y);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

static void
compare(ReturnSetInfo *rsinfo, JobstateAttachment *attachment,
		JobstateSums *counted, JobstateSums *actual)
{
	JobstateSum **sum;
	int			n = jobstate_sums_list(actual, &sum);
	int			i;

	/* make each key known to both, so that one walk sees them all */
	for (i = 0; i < n; i++)
		(void) jobstate_sums_find(counted, sum[i]->epoch, sum[i]->hash, sum[i]->key);
	n = jobstate_sums_list(counted, &sum);
	for (i = 0; i < n; i++)
		put_difference(rsinfo, attachment, sum[i],
					   jobstate_sums_find(actual, sum[i]->epoch, sum[i]->hash,
										  sum[i]->key));
}

/*
 * verify_one(target regclass): the newest snapshot is taken while the log is
 * locked, and then counts the rows too.  Nothing drifts where nothing is
 * counted.
 */
Datum
jobstate_verify(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			target = PG_GETARG_OID(0);
	JobstateAttachment *attachment;
	JobstateTallySet *spelling = jobstate_tally_set_create(CurrentMemoryContext);
	JobstateSums *counted = jobstate_sums_create(CurrentMemoryContext);
	JobstateSums *actual = jobstate_sums_create(CurrentMemoryContext);
	Snapshot	snapshot;
	JobstateRole role;

	InitMaterializedSRF(fcinfo, 0);
	(void) jobstate_attachment(target);
	jobstate_counts_check_rights(target);
	/* first, so that no TRUNCATE comes between the counters and the rows */
	LockRelationOid(target, AccessShareLock);
	(void) find_all_inheritors(target, AccessShareLock, NULL);
	attachment = jobstate_attachment(target);
	role = jobstate_become(jobstate_owner_of(attachment->target));
	if (jobstate_counts_read(attachment, NULL, NULL, &snapshot,
							 counted) == JOBSTATE_READ_COUNTED)
	{
		jobstate_counts_add_pending(attachment, counted);
		(void) jobstate_recount(attachment, attachment->target, NULL, snapshot, actual);
		compare(rsinfo, attachment,
				jobstate_counts_merge(attachment, spelling, NULL, counted),
				jobstate_counts_merge(attachment, spelling, NULL, actual));
	}
	UnregisterSnapshot(snapshot);
	jobstate_return(role);
	return (Datum) 0;
}
