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
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "elements.h"
#include "error.h"
#include "jobscan.h"
#include "queueinfo.h"
#include "recount.h"

PG_FUNCTION_INFO_V1(jobstate_complete);
PG_FUNCTION_INFO_V1(jobstate_complete_one);
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

/* A batch under way */
typedef struct Completion
{
	JobstateJobTable *jobs;
	TimestampTz now;
	JobstateJobScan scan;		/* at the job that is looked at */
} Completion;

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

/* Goes to the row at a position of a partition. */
static bool
row_at(Completion *completion, JobstateJobPart *part, int64 position)
{
	jobstate_job_scan_begin(&completion->scan, part, GetActiveSnapshot(), position, position + 1);
	return jobstate_job_scan_next(&completion->scan);
}

/* What others have committed by now is seen from here on. */
static void
look_again(void)
{
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Goes to the job's row.  False: there is no such job.  A partition is open
 * before the snapshot is taken that its row is looked up by: whoever emptied a
 * slot of the ring may have moved the row while we waited.
 */
static bool
go_to_job(Completion *completion, int64 id)
{
	JobstateJobTable *jobs = completion->jobs;
	JobstateJobPart *part;
	int64		position;
	int			slot = jobstate_job_slot(&jobs->ring, id);

	if (slot < jobs->nslots && row_at(completion, jobstate_jobs_part(jobs, slot), id))
		return true;
	if (!find_moved(id, &position, &slot))
		return false;
	part = jobstate_jobs_part(jobs, slot);
	look_again();
	return row_at(completion, part, position);
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
write_completed(Completion *completion, Report *report)
{
	JobstateJobPart *part = completion->scan.part;
	TupleTableSlot *old;

	jobstate_job_scan_make_room(&completion->scan);
	old = jobstate_job_scan_slot(&completion->scan);
	jobstate_job_copy(part, old);
	jobstate_job_set(part, JOB_STATE_ID, Int16GetDatum(JOB_COMPLETED));
	jobstate_job_set(part, JOB_FINISHED_AT, TimestampTzGetDatum(completion->now));
	if (!report->no_result)
		jobstate_job_set(part, JOB_RESULT, report->result);
	return jobstate_row_update(jobstate_job_writer(part), old, part->new,
							   GetActiveSnapshot(), true);
}

/*
 * Completes one job.  False: the token is not that of its attempt, or the job is
 * not running.  Whoever reports the same attempt again hears the same.
 */
static bool
complete_job(Completion *completion, Report *report)
{
	for (;;)
	{
		bool		isnull;
		int64		token;
		int			state;

		if (!go_to_job(completion, report->id))
		{
			refuse_if_emptied(RelationGetRelid(completion->jobs->rel));
			return false;
		}
		token = DatumGetInt64(jobstate_job_scan_value(&completion->scan, JOB_TOKEN, &isnull));
		if (isnull || token != report->token)
			return false;
		state = DatumGetInt16(jobstate_job_scan_value(&completion->scan, JOB_STATE_ID, &isnull));
		if (state != JOB_RUNNING)
			return state == JOB_COMPLETED;
		if (write_completed(completion, report) == TM_Ok)
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

/* Completes jobs; "held" is for the ids that the tokens held.  Returns their number. */
static int
complete_jobs(Report *report, int n, Datum *held)
{
	Completion	completion = {0};
	int			nheld = 0;
	int			i;

	CommandCounterIncrement();
	completion.now = GetCurrentTimestamp();
	completion.jobs = jobstate_queue_open_jobs(ACL_SELECT | ACL_UPDATE);
	open_homes(completion.jobs, report, n);
	PushActiveSnapshot(GetTransactionSnapshot());
	JOBSTATE_INSTANT("complete-begin");
	for (i = 0; i < n; i++)
		if ((i == 0 || report[i].id != report[i - 1].id) &&
			complete_job(&completion, &report[i]))
			held[nheld++] = Int64GetDatum(report[i].id);
	jobstate_job_scan_end(&completion.scan);
	JOBSTATE_INSTANT("complete-written");
	PopActiveSnapshot();
	jobstate_jobs_close(completion.jobs);
	return nheld;
}

/* complete(ids, tokens, results) returns setof bigint: the ids that it held for */
Datum
jobstate_complete(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Report	   *report;
	Datum	   *held;
	int			n;
	int			i;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		jobstate_error_null(PG_ARGISNULL(0) ? "ids" : "tokens");
	PreventCommandIfReadOnly("complete()");
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	n = read_reports(fcinfo, &report);
	if (n == 0)
		return (Datum) 0;
	held = palloc(sizeof(Datum) * n);
	n = complete_jobs(report, n, held);
	for (i = 0; i < n; i++)
	{
		bool		isnull = false;

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &held[i], &isnull);
	}
	return (Datum) 0;
}

/* Raises why the token does not hold the job. */
static void
refuse(Report *report)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[2];

	values[0] = Int64GetDatum(report->id);
	values[1] = Int64GetDatum(report->token);
	jobstate_spi_connect();
	if (SPI_execute_plan(jobstate_spi_plan(&plan, "SELECT jobstate.queue_refuse($1, $2)", 2, types),
						 values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up a job");
	jobstate_spi_finish();
}

/* complete(id, token, result) returns boolean */
Datum
jobstate_complete_one(PG_FUNCTION_ARGS)
{
	Report		report = {0};
	Datum		held;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		jobstate_error_null(PG_ARGISNULL(0) ? "ids" : "tokens");
	PreventCommandIfReadOnly("complete()");
	report.id = PG_GETARG_INT64(0);
	report.token = PG_GETARG_INT64(1);
	report.no_result = PG_ARGISNULL(2);
	report.result = PG_GETARG_DATUM(2);
	if (complete_jobs(&report, 1, &held) == 1)
		PG_RETURN_BOOL(true);
	refuse(&report);
	PG_RETURN_BOOL(false);
}

/* queue_whole(), for the verbs in SQL that miss a job */
Datum
jobstate_queue_whole(PG_FUNCTION_ARGS)
{
	refuse_if_emptied(jobstate_queue_relation(QUEUE_JOB));
	PG_RETURN_VOID();
}
