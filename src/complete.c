/*
 * src/complete.c
 *
 * Jobs are completed: whoever holds an attempt's token says that it is done.  A
 * row changes in place, without the executor's detour.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "elements.h"
#include "error.h"
#include "queueinfo.h"
#include "recount.h"

PG_FUNCTION_INFO_V1(jobstate_complete);
PG_FUNCTION_INFO_V1(jobstate_queue_whole);

/* One job that is reported as done */
typedef struct Report
{
	int64		id;
	int64		token;
	int			order;			/* as given: of a job's reports the first counts */
	Datum		result;
	bool		no_result;
} Report;

/* Where a job is that has moved, or where the ring says so no longer */
static bool
find_moved(int64 id, int64 *position, int *slot)
{
	static SPIPlanPtr plan = NULL;
	Oid			type = INT8ARRAYOID;
	Datum		element = Int64GetDatum(id);
	Datum		ids = PointerGetDatum(construct_array(&element, 1, INT8OID, 8,
													  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	bool		isnull;
	bool		found;

	jobstate_spi_connect();
	(void) jobstate_spi_plan(&plan, "SELECT f.\"position\", f.slot FROM jobstate.queue_find($1) f",
							 1, &type);
	if (SPI_execute_plan(plan, &ids, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up a job");
	found = SPI_processed == 1;
	if (found)
	{
		*position = DatumGetInt64(jobstate_spi_value(0, 1, &isnull));
		*slot = DatumGetInt16(jobstate_spi_value(0, 2, &isnull));
	}
	jobstate_spi_finish();
	return found;
}

/* The row at a position of a partition */
static bool
row_at(JobstateJobPart *part, int64 position, Snapshot snapshot)
{
	IndexScanDesc scan = jobstate_index_beginscan(part->writer->rel, part->pkey, snapshot, 1);
	ScanKeyData key;
	bool		found;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(position));
	index_rescan(scan, &key, 1, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, part->old);
	index_endscan(scan);
	return found;
}

/* What others have committed by now is seen from here on. */
static void
look_again(void)
{
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * The job's row, in its partition's slot "old"; NULL: there is no such job.  A
 * partition is open before the snapshot is taken that its row is looked up by:
 * whoever emptied a slot of the ring may have moved the row while we waited.
 */
static JobstateJobPart *
job_row(JobstateJobTable *jobs, int64 id)
{
	JobstateJobPart *part;
	int64		position;
	int			slot = jobstate_job_slot(&jobs->ring, id);

	part = slot < jobs->nslots ? jobstate_jobs_part(jobs, slot) : NULL;
	if (part != NULL && row_at(part, id, GetActiveSnapshot()))
		return part;
	if (!find_moved(id, &position, &slot))
		return NULL;
	part = jobstate_jobs_part(jobs, slot);
	look_again();
	return row_at(part, position, GetActiveSnapshot()) ? part : NULL;
}

static void
refuse_if_serial(void)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update")));
}

/* A job that is not there may be one whose slot was emptied since our snapshot. */
static void
refuse_if_emptied(Oid relid)
{
	if (IsolationUsesXactSnapshot() &&
		jobstate_was_rewritten(relid, GetTransactionSnapshot()))
		jobstate_error_ring_emptied();
}

static TM_Result
write_completed(JobstateJobPart *part, Report *report, TimestampTz now)
{
	TM_Result	result;

	jobstate_job_copy(part, part->old);
	jobstate_job_set(part, JOB_STATE_ID, Int16GetDatum(JOB_COMPLETED));
	jobstate_job_set(part, JOB_FINISHED_AT, TimestampTzGetDatum(now));
	if (!report->no_result)
		jobstate_job_set(part, JOB_RESULT, report->result);
	result = jobstate_row_update(part->writer, part->old, part->new,
								 GetActiveSnapshot(), true);
	ExecClearTuple(part->old);
	return result;
}

/*
 * Completes one job.  False: the token is not that of its attempt, or the job is
 * not running.  Whoever reports the same attempt again hears the same.
 */
static bool
complete_job(JobstateJobTable *jobs, Report *report, TimestampTz now)
{
	for (;;)
	{
		JobstateJobPart *part = job_row(jobs, report->id);
		bool		isnull;
		int64		token;
		int			state;

		if (part == NULL)
		{
			refuse_if_emptied(RelationGetRelid(jobs->rel));
			return false;
		}
		token = DatumGetInt64(jobstate_job_value(part, part->old, JOB_TOKEN, &isnull));
		if (isnull || token != report->token)
			return false;
		state = DatumGetInt16(jobstate_job_value(part, part->old, JOB_STATE_ID, &isnull));
		if (state != JOB_RUNNING)
			return state == JOB_COMPLETED;
		if (write_completed(part, report, now) == TM_Ok)
			return true;
		refuse_if_serial();
		look_again();
		CHECK_FOR_INTERRUPTS();
	}
}

static int
compare_reports(const void *a, const void *b)
{
	const Report *x = a;
	const Report *y = b;

	if (x->id != y->id)
		return x->id > y->id ? 1 : -1;
	return x->order - y->order;
}

/* The three arrays as reports, in the order of ids, so that nobody deadlocks. */
static int
read_reports(FunctionCallInfo fcinfo, Report **reports)
{
	JobstateElements id;
	JobstateElements token;
	JobstateElements result;
	int			n;
	int			i;

	jobstate_elements_read(fcinfo, 0, INT8OID, &id);
	jobstate_elements_read(fcinfo, 1, INT8OID, &token);
	jobstate_elements_read(fcinfo, 2, JSONBOID, &result);
	n = id.n;
	if (token.n != n)
		jobstate_error_array_lengths("ids", "tokens");
	if (!PG_ARGISNULL(2) && result.n != n)
		jobstate_error_array_lengths("ids", "results");
	*reports = palloc(sizeof(Report) * (n + 1));
	for (i = 0; i < n; i++)
	{
		if (id.isnull[i] || token.isnull[i])
			jobstate_error_null(id.isnull[i] ? "ids" : "tokens");
		(*reports)[i].id = DatumGetInt64(id.value[i]);
		(*reports)[i].token = DatumGetInt64(token.value[i]);
		(*reports)[i].order = i;
		(*reports)[i].no_result = !jobstate_elements_has(&result, i);
		(*reports)[i].result = (*reports)[i].no_result ? (Datum) 0 : result.value[i];
	}
	qsort(*reports, n, sizeof(Report), compare_reports);
	return n;
}

/* Opens the partitions where the jobs are unless they have moved. */
static void
open_homes(JobstateJobTable *jobs, Report *report, int n)
{
	int			i;

	for (i = 0; i < n; i++)
	{
		int			slot = jobstate_job_slot(&jobs->ring, report[i].id);

		if (slot < jobs->nslots)
			(void) jobstate_jobs_part(jobs, slot);
	}
}

/* complete(ids, tokens, results) returns setof bigint: the ids that it held for */
Datum
jobstate_complete(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = GetCurrentTimestamp();
	JobstateJobTable *jobs;
	Report	   *report;
	int			n;
	int			i;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		jobstate_error_null(PG_ARGISNULL(0) ? "ids" : "tokens");
	PreventCommandIfReadOnly("complete()");
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	n = read_reports(fcinfo, &report);
	if (n == 0)
		return (Datum) 0;
	CommandCounterIncrement();
	jobs = jobstate_queue_open_jobs(ACL_SELECT | ACL_UPDATE);
	open_homes(jobs, report, n);
	PushActiveSnapshot(GetTransactionSnapshot());
	for (i = 0; i < n; i++)
	{
		bool		isnull = false;
		Datum		id = Int64GetDatum(report[i].id);

		if ((i == 0 || report[i].id != report[i - 1].id) &&
			complete_job(jobs, &report[i], now))
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &id, &isnull);
	}
	PopActiveSnapshot();
	jobstate_jobs_close(jobs);
	return (Datum) 0;
}

/* queue_whole(), for the verbs in SQL that miss a job */
Datum
jobstate_queue_whole(PG_FUNCTION_ARGS)
{
	refuse_if_emptied(jobstate_queue_relation(QUEUE_JOB));
	PG_RETURN_VOID();
}
