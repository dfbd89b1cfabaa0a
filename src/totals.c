/*
 * src/totals.c
 *
 * What is there and what was rolled up, together.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "counts.h"
#include "error.h"

PG_FUNCTION_INFO_V1(jobstate_totals);
PG_FUNCTION_INFO_V1(jobstate_state_totals);

/*
 * Adds the table's part of the rollup, in the spelling of keys that the live
 * counts have.
 */
static void
read_rollup(JobstateAttachment *attachment, JobstateTallySet *spelling,
			JobstateSums *rolled)
{
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(attachment->target);
	JobstateRole role = jobstate_become(jobstate_catalog()->owner);
	int			nest;
	uint64		i;

	jobstate_spi_connect();
	if (SPI_execute_with_args("SELECT group_key, state_id, pg_catalog.sum(n)::bigint"
							  " FROM jobstate.rollup"
							  " WHERE target OPERATOR(pg_catalog.=) $1"
							  " GROUP BY group_key, state_id",
							  1, &type, &value, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the rollup");
	jobstate_return(role);
	nest = jobstate_settings_begin();
	for (i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		JobstateKeyValues key;
		JobstateTally *tally;
		JobstateSum *sum;
		bool		isnull;

		(void) jobstate_key_from_jsonb(&attachment->key,
									   DatumGetJsonbP(SPI_getbinval(tuple, desc, 1, &isnull)),
									   attachment->target, &key);
		tally = jobstate_tally_set_find(spelling, attachment, &key);
		sum = jobstate_sums_find(rolled, attachment->epoch, tally->hash, tally->text);
		jobstate_deltas_add(&sum->deltas,
							DatumGetInt16(SPI_getbinval(tuple, desc, 2, &isnull)),
							DatumGetInt64(SPI_getbinval(tuple, desc, 3, &isnull)));
	}
	jobstate_settings_end(nest);
	jobstate_spi_finish();
}

/*
 * Counts what is there, and returns the snapshot, registered, by which the
 * rollup is to be read; NULL for the active one.
 * Problem: both must be of one moment, or what is pruned in between is in
 * neither.  Counters that a fold has overtaken are read by the newest snapshot
 * where a transaction does not keep its own.
 * Solution: there both are read by the newest.  Where the rows are counted
 * themselves, nobody truncates a partition after it was taken.
 */
static Snapshot
count_live(JobstateAttachment *attachment, JobstateFilter *filter,
		   JobstateSums *live)
{
	Snapshot	newest;

	if (IsolationUsesXactSnapshot())
	{
		jobstate_counts_exact(attachment, filter, live);
		return NULL;
	}
	if (jobstate_counts_read(attachment, filter, NULL, &newest,
							 live) == JOBSTATE_READ_COUNTED)
	{
		jobstate_counts_add_pending(attachment, live);
		return newest;
	}
	UnregisterSnapshot(newest);
	jobstate_sums_reset(live);
	LockRelationOid(attachment->target, AccessShareLock);
	(void) find_all_inheritors(attachment->target, AccessShareLock, NULL);
	newest = RegisterSnapshot(GetLatestSnapshot());
	(void) jobstate_recount(attachment, attachment->target, filter, newest, live);
	return newest;
}

static void
put_group(ReturnSetInfo *rsinfo, JobstateAttachment *attachment,
		  JobstateSum *live, JobstateSum *rolled)
{
	JobstateMachine *machine = attachment->machine;
	Jsonb	   *group = jobstate_key_to_jsonb(&attachment->key, live->key);
	int			i;

	for (i = 0; i < machine->nstates; i++)
	{
		int16		id = machine->state[i].id;
		Datum		values[5];
		bool		nulls[5] = {false};

		values[0] = JsonbPGetDatum(group);
		values[1] = CStringGetTextDatum(machine->state[i].name);
		values[2] = Int64GetDatum(jobstate_counts_checked(attachment, live, i));
		values[3] = Int64GetDatum(jobstate_sums_get(rolled, id));
		values[4] = Int64GetDatum(DatumGetInt64(values[2]) + DatumGetInt64(values[3]));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/* Groups that have rows or had some; one that was asked for in any case */
static void
put_all(ReturnSetInfo *rsinfo, JobstateAttachment *attachment,
		JobstateFilter *filter, JobstateTallySet *spelling,
		JobstateSums *live, JobstateSums *rolled)
{
	JobstateSum **sum;
	int			n = jobstate_sums_list(rolled, &sum);
	int			i;

	/* make each key known to the live ones, so that one walk sees them all */
	for (i = 0; i < n; i++)
		(void) jobstate_sums_find(live, sum[i]->epoch, sum[i]->hash, sum[i]->key);
	jobstate_counts_add_asked(attachment, filter, spelling, live);
	n = jobstate_sums_list(live, &sum);
	for (i = 0; i < n; i++)
	{
		JobstateSum *other = jobstate_sums_find(rolled, sum[i]->epoch,
												sum[i]->hash, sum[i]->key);

		if (sum[i]->asked || !jobstate_sums_is_zero(sum[i]) ||
			!jobstate_sums_is_zero(other))
			put_group(rsinfo, attachment, sum[i], other);
	}
}

/* totals(target, group_key) returns (group_key, state, live, rolled_up, total) */
Datum
jobstate_totals(PG_FUNCTION_ARGS)
{
	JobstateTallySet *spelling = jobstate_tally_set_create(CurrentMemoryContext);
	JobstateSums *live = jobstate_sums_create(CurrentMemoryContext);
	JobstateSums *rolled = jobstate_sums_create(CurrentMemoryContext);
	JobstateAttachment *attachment;
	JobstateFilter *filter;
	JobstateRole role;
	Snapshot	newest;

	InitMaterializedSRF(fcinfo, 0);
	attachment = jobstate_counts_arguments(fcinfo, &filter, &role);
	newest = count_live(attachment, filter, live);
	live = jobstate_counts_merge(attachment, spelling, filter, live);
	if (newest != NULL)
		PushActiveSnapshot(newest);
	read_rollup(attachment, spelling, rolled);
	if (newest != NULL)
	{
		PopActiveSnapshot();
		UnregisterSnapshot(newest);
	}
	rolled = jobstate_counts_merge(attachment, spelling, filter, rolled);
	put_all((ReturnSetInfo *) fcinfo->resultinfo, attachment, filter, spelling,
			live, rolled);
	jobstate_return(role);
	return (Datum) 0;
}

/* Adds the table's part of the rollup by state, whatever the group. */
static void
read_rollup_states(Oid target, JobstateDeltas *rolled)
{
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(target);
	JobstateRole role = jobstate_become(jobstate_catalog()->owner);
	bool		isnull;
	uint64		i;

	jobstate_spi_connect();
	if (SPI_execute_with_args("SELECT state_id, pg_catalog.sum(n)::bigint FROM jobstate.rollup"
							  " WHERE target OPERATOR(pg_catalog.=) $1 GROUP BY state_id",
							  1, &type, &value, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the rollup");
	jobstate_return(role);
	for (i = 0; i < SPI_processed; i++)
		jobstate_deltas_add(rolled,
							DatumGetInt16(jobstate_spi_value(i, 1, &isnull)),
							DatumGetInt64(jobstate_spi_value(i, 2, &isnull)));
	jobstate_spi_finish();
}

static void
put_states(ReturnSetInfo *rsinfo, JobstateMachine *machine, int64 *live,
		   JobstateDeltas *rolled)
{
	int			i;

	for (i = 0; i < machine->nstates; i++)
	{
		Datum		values[3];
		bool		nulls[3] = {false};
		JobstateDelta *delta = jobstate_deltas_find(rolled, machine->state[i].id);

		values[0] = CStringGetTextDatum(machine->state[i].name);
		values[1] = Int64GetDatum(live[i]);
		values[2] = Int64GetDatum(delta ? delta->n : 0);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/*
 * state_totals(target) returns (state, live, rolled_up), over all groups, of
 * this moment.  For who asks often: an uncounted table gives no row, where
 * totals() would scan it.
 */
Datum
jobstate_state_totals(PG_FUNCTION_ARGS)
{
	JobstateTallySet *spelling = jobstate_tally_set_create(CurrentMemoryContext);
	JobstateSums *live = jobstate_sums_create(CurrentMemoryContext);
	JobstateDeltas rolled;
	JobstateAttachment *attachment;
	JobstateRole role;
	JobstateSum **sum;
	Snapshot	newest;
	int64	   *n;
	int			i;
	int			j;

	InitMaterializedSRF(fcinfo, 0);
	attachment = jobstate_attachment(PG_GETARG_OID(0));
	jobstate_counts_check_rights(attachment->target);
	role = jobstate_become(jobstate_owner_of(attachment->target));
	if (jobstate_counts_read(attachment, NULL, NULL, &newest, live) == JOBSTATE_READ_COUNTED)
	{
		jobstate_counts_add_pending(attachment, live);
		live = jobstate_counts_merge(attachment, spelling, NULL, live);
		n = palloc0(sizeof(int64) * attachment->machine->nstates);
		for (i = jobstate_sums_list(live, &sum) - 1; i >= 0; i--)
			for (j = 0; j < attachment->machine->nstates; j++)
				n[j] += jobstate_counts_checked(attachment, sum[i], j);
		jobstate_deltas_init(&rolled, CurrentMemoryContext);
		PushActiveSnapshot(newest);
		read_rollup_states(attachment->target, &rolled);
		PopActiveSnapshot();
		put_states((ReturnSetInfo *) fcinfo->resultinfo, attachment->machine, n, &rolled);
	}
	UnregisterSnapshot(newest);
	jobstate_return(role);
	return (Datum) 0;
}
