/*
 * src/queue.c
 *
 * The two verbs of the queue that every job goes through: claim and complete.
 *
 * They change rows in place, without the executor's detour per row, and do not
 * wait where they can pass.  Everything else about the queue is SQL.
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
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "lane.h"
#include "limit.h"
#include "recount.h"

PG_FUNCTION_INFO_V1(jobstate_claim);
PG_FUNCTION_INFO_V1(jobstate_complete);

/* A claim under way */
typedef struct Claim
{
	/* what was asked for */
	text	   *queue;
	Datum		worker;
	int			wanted;

	/* the queue */
	bool		paused;
	bool		limited;
	JobstateLimits *limits;		/* NULL: none */
	int64		aging;			/* microseconds per priority */
	JobstateRing ring;
	JobstateLane *lane;
	int			nlanes;

	/* the attempt that begins */
	int64		token;
	TimestampTz now;
	TimestampTz lease_until;
	ReturnSetInfo *rsinfo;
	int			taken;
} Claim;

static Datum
spi_value(int row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

/* An interval that is days and time at most, as a difference of timestamps is */
static int64
microseconds(Interval *interval)
{
	return interval->day * USECS_PER_DAY + interval->time;
}

static void
read_lanes(Claim *claim, MemoryContext context)
{
	bool		isnull;
	int			i;

	claim->nlanes = SPI_processed;
	claim->lane = MemoryContextAllocZero(context, sizeof(JobstateLane) * (claim->nlanes + 1));
	for (i = 0; i < claim->nlanes; i++)
	{
		claim->lane[i].lane = DatumGetInt16(spi_value(i, 1, &isnull));
		claim->lane[i].priority = DatumGetInt16(spi_value(i, 2, &isnull));
		claim->lane[i].shard = DatumGetInt16(spi_value(i, 3, &isnull));
	}
}

/* The queue, its lanes and the ring, in one query */
static void
read_queue(Claim *claim, Datum lease, bool default_lease)
{
	static SPIPlanPtr plan = NULL;
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {TEXTOID, TIMESTAMPTZOID, INTERVALOID};
	char		nulls[] = {' ', ' ', default_lease ? 'n' : ' '};
	Datum		values[3];
	bool		isnull;

	values[0] = PointerGetDatum(claim->queue);
	values[1] = TimestampTzGetDatum(claim->now);
	values[2] = lease;
	jobstate_spi_connect();
	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT l.lane, l.priority, l.shard, q.paused_at IS NOT NULL,"
						   " q.max_running IS NOT NULL OR q.max_running_per_key IS NOT NULL,"
						   " $2 OPERATOR(pg_catalog.+) COALESCE($3, q.lease),"
						   " ($2 OPERATOR(pg_catalog.+) q.aging) OPERATOR(pg_catalog.-) $2,"
						   " r.slots, r.slot_jobs, r.since"
						   " FROM jobstate.queue q, jobstate.queue_lane l, jobstate.queue_ring r"
						   " WHERE q.queue OPERATOR(pg_catalog.=) $1"
						   " AND l.queue OPERATOR(pg_catalog.=) $1"
						   " ORDER BY l.priority, l.shard", 3, types);
		SPI_keepplan(plan);
	}
	if (SPI_execute_plan(plan, values, nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read jobstate.queue");
	read_lanes(claim, context);
	if (claim->nlanes > 0)
	{
		claim->paused = DatumGetBool(spi_value(0, 4, &isnull));
		claim->limited = DatumGetBool(spi_value(0, 5, &isnull));
		claim->lease_until = DatumGetTimestampTz(spi_value(0, 6, &isnull));
		claim->aging = microseconds(DatumGetIntervalP(spi_value(0, 7, &isnull)));
		claim->ring.slots = DatumGetInt16(spi_value(0, 8, &isnull));
		claim->ring.slot_jobs = DatumGetInt64(spi_value(0, 9, &isnull));
		claim->ring.since = DatumGetInt64(spi_value(0, 10, &isnull));
	}
	jobstate_spi_finish();
}

/*
 * How urgent the lane's head is: less is more.  A job that has waited for k
 * times the queue's aging counts k priorities more urgent.
 */
static int64
urgency(Claim *claim, JobstateLane *lane)
{
	bool		isnull;
	TimestampTz since = DatumGetTimestampTz(jobstate_job_value(lane->part, lane->slot,
															   JOB_RUN_AT, &isnull));

	return lane->priority - (claim->now - since) / claim->aging;
}

/*
 * The lane to claim from.  Between shards that are equally urgent each backend
 * has its own favourite, so that they do not step on each other's feet.
 */
static JobstateLane *
most_urgent(Claim *claim, JobstateLaneScan *scan)
{
	JobstateLane *best = NULL;
	int64		least = 0;
	int			i;

	for (i = 0; i < claim->nlanes; i++)
	{
		JobstateLane *lane = &claim->lane[(i + MyProcPid) % claim->nlanes];
		int64		urgent;

		if (lane->exhausted ||
			(lane->slot == NULL && !jobstate_lane_next(lane, scan)))
			continue;
		urgent = claim->nlanes == 1 ? 0 : urgency(claim, lane);
		if (best == NULL || urgent < least)
		{
			best = lane;
			least = urgent;
		}
	}
	return best;
}

/* Tells the caller of a job that is theirs now. */
static void
return_job(Claim *claim, JobstateJobPart *part)
{
	static const JobColumn column[] = {
		JOB_ID, JOB_TOKEN, JOB_ATTEMPT, JOB_KIND, JOB_PAYLOAD, JOB_PRIORITY,
		JOB_ENQUEUED_AT, JOB_LEASE_UNTIL
	};
	Datum		values[lengthof(column)];
	bool		nulls[lengthof(column)];
	int			i;

	for (i = 0; i < lengthof(column); i++)
		values[i] = jobstate_job_value(part, part->new, column[i], &nulls[i]);
	tuplestore_putvalues(claim->rsinfo->setResult, claim->rsinfo->setDesc, values, nulls);
	claim->taken++;
}

/* Takes the lane's current job, unless somebody else has it. */
static void
take_job(Claim *claim, JobstateLane *lane, Snapshot snapshot)
{
	JobstateJobPart *part = lane->part;
	bool		isnull;
	int16		attempt = DatumGetInt16(jobstate_job_value(part, lane->slot,
														   JOB_ATTEMPT, &isnull));
	int64		position = DatumGetInt64(jobstate_job_value(part, lane->slot,
															JOB_POSITION_COLUMN, &isnull));

	jobstate_job_copy(part, lane->slot);
	jobstate_job_set(part, JOB_STATE_ID, Int16GetDatum(JOB_RUNNING));
	jobstate_job_set(part, JOB_ATTEMPT, Int16GetDatum(attempt + 1));
	jobstate_job_set(part, JOB_TOKEN, Int64GetDatum(claim->token));
	jobstate_job_set(part, JOB_CLAIMED_AT, TimestampTzGetDatum(claim->now));
	jobstate_job_set(part, JOB_LEASE_UNTIL, TimestampTzGetDatum(claim->lease_until));
	jobstate_job_set(part, JOB_WORKER, claim->worker);
	if (jobstate_row_update(part->writer, lane->slot, part->new, snapshot, false) != TM_Ok)
		return;
	lane->claimed = Max(lane->claimed, position);
	return_job(claim, part);
}

/* Takes the lane's current job if the queue's limits allow it. */
static void
take_if_allowed(Claim *claim, JobstateLane *lane, Snapshot snapshot)
{
	bool		isnull;
	int			before = claim->taken;
	Datum		key;

	if (claim->limits == NULL)
	{
		take_job(claim, lane, snapshot);
		return;
	}
	key = jobstate_job_value(lane->part, lane->slot, JOB_LIMIT_KEY, &isnull);
	if (!jobstate_limits_allow(claim->limits, key, isnull))
		return;
	take_job(claim, lane, snapshot);
	if (claim->taken > before)
		jobstate_limits_count(claim->limits, key, isnull);
}

static bool
wants_more(Claim *claim)
{
	return claim->taken < claim->wanted &&
		(claim->limits == NULL || !jobstate_limits_full(claim->limits));
}

static void
claim_jobs(Claim *claim, JobstateLaneScan *scan)
{
	JobstateLane *lane;
	int			i;

	for (i = 0; i < claim->nlanes; i++)
		jobstate_lane_open(&claim->lane[i], scan);
	while (wants_more(claim) && (lane = most_urgent(claim, scan)) != NULL)
	{
		do
			take_if_allowed(claim, lane, scan->snapshot);
		while (wants_more(claim) && jobstate_lane_next(lane, scan));
		if (!lane->exhausted)
			break;
	}
	for (i = 0; i < claim->nlanes; i++)
		jobstate_lane_close(&claim->lane[i], scan);
}

/* Claims from the queue, which is not paused. */
static void
claim_from(Claim *claim)
{
	JobstateLaneScan scan;
	Oid			sequence = jobstate_queue_relation("job_number");

	if (!pg_strong_random(&claim->token, sizeof(claim->token)))
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("could not generate a random token")));
	claim->token = (claim->token & PG_INT64_MAX) | 1;

	if (claim->limited)
		claim->limits = jobstate_limits_read(claim->queue);
	scan.last = DatumGetInt64(DirectFunctionCall1(pg_sequence_last_value,
												  ObjectIdGetDatum(sequence)));
	scan.horizon = U64FromFullTransactionId(ReadNextFullTransactionId());
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	scan.snapshot = GetActiveSnapshot();
	scan.jobs = jobstate_jobs_open(ACL_SELECT | ACL_UPDATE, claim->ring);
	claim_jobs(claim, &scan);
	jobstate_jobs_close(scan.jobs);
	PopActiveSnapshot();
}

/* claim(queue, worker, n, lease) */
Datum
jobstate_claim(PG_FUNCTION_ARGS)
{
	static const char *const argument[] = {"queue", "worker", "n"};
	Claim		claim = {0};
	int			i;

	for (i = 0; i < 3; i++)
		if (PG_ARGISNULL(i))
			jobstate_error_null(argument[i]);
	if (PG_GETARG_INT32(2) <= 0)
		jobstate_error_not_positive("n");
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	claim.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	claim.queue = PG_GETARG_TEXT_PP(0);
	claim.worker = PG_GETARG_DATUM(1);
	claim.wanted = PG_GETARG_INT32(2);
	claim.now = GetCurrentTimestamp();
	read_queue(&claim, PG_ARGISNULL(3) ? (Datum) 0 : PG_GETARG_DATUM(3), PG_ARGISNULL(3));
	if (!PG_ARGISNULL(3) && claim.nlanes > 0 && claim.lease_until <= claim.now)
		jobstate_error_not_positive("lease");
	if (claim.nlanes > 0 && !claim.paused)
		claim_from(&claim);
	return (Datum) 0;
}

/* One job that is reported as done */
typedef struct Report
{
	int64		id;
	int64		token;
	int			order;			/* as given: of a job's reports the first counts */
	Datum		result;
	bool		no_result;
} Report;

/* The ring as it was last read; where it misleads, a lookup finds the job. */
static JobstateRing ring_hint = {0};

static void
read_ring(void)
{
	static SPIPlanPtr plan = NULL;
	bool		isnull;

	jobstate_spi_connect();
	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT slots, slot_jobs, since FROM jobstate.queue_ring", 0, NULL);
		SPI_keepplan(plan);
	}
	if (SPI_execute_plan(plan, NULL, NULL, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not read jobstate.queue_ring");
	ring_hint.slots = DatumGetInt16(spi_value(0, 1, &isnull));
	ring_hint.slot_jobs = DatumGetInt64(spi_value(0, 2, &isnull));
	ring_hint.since = DatumGetInt64(spi_value(0, 3, &isnull));
	jobstate_spi_finish();
}

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
	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT f.\"position\", f.slot FROM jobstate.queue_find($1) f", 1, &type);
		SPI_keepplan(plan);
	}
	if (SPI_execute_plan(plan, &ids, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up a job");
	found = SPI_processed == 1;
	if (found)
	{
		*position = DatumGetInt64(spi_value(0, 1, &isnull));
		*slot = DatumGetInt16(spi_value(0, 2, &isnull));
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

/*
 * The job's row as a snapshot sees it that is taken once the partition is open:
 * whoever emptied a slot of the ring may have moved the row while we waited.
 */
static bool
row_in(JobstateJobPart *part, int64 position)
{
	bool		found;

	PushActiveSnapshot(GetTransactionSnapshot());
	found = row_at(part, position, GetActiveSnapshot());
	PopActiveSnapshot();
	return found;
}

/* The job's row, in its partition's slot "old"; NULL: there is no such job. */
static JobstateJobPart *
job_row(JobstateJobTable *jobs, int64 id)
{
	JobstateJobPart *part;
	int64		position;
	int			slot = jobstate_job_slot(&jobs->ring, id);

	if (slot < jobs->nslots)
	{
		part = jobstate_jobs_part(jobs, slot);
		if (row_in(part, id))
			return part;
	}
	if (find_moved(id, &position, &slot))
	{
		part = jobstate_jobs_part(jobs, slot);
		if (row_in(part, position))
			return part;
	}
	return NULL;
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
refuse_if_emptied(JobstateJobTable *jobs)
{
	Oid			relid = RelationGetRelid(jobs->rel);

	if (IsolationUsesXactSnapshot() &&
		jobstate_was_rewritten(relid, GetTransactionSnapshot()))
		jobstate_error_snapshot_truncated(relid);
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
	PushActiveSnapshot(GetTransactionSnapshot());
	result = jobstate_row_update(part->writer, part->old, part->new,
								 GetActiveSnapshot(), true);
	PopActiveSnapshot();
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
			refuse_if_emptied(jobs);
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

static int
read_array(FunctionCallInfo fcinfo, int argno, Oid type,
		   Datum **elements, bool **nulls)
{
	int16		typlen;
	bool		typbyval;
	char		typalign;
	int			n;

	get_typlenbyvalalign(type, &typlen, &typbyval, &typalign);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argno), type, typlen, typbyval, typalign,
					  elements, nulls, &n);
	return n;
}

/* The three arrays as reports, in the order of ids, so that nobody deadlocks. */
static int
read_reports(FunctionCallInfo fcinfo, Report **reports)
{
	Datum	   *id;
	Datum	   *token;
	Datum	   *result = NULL;
	bool	   *no_id;
	bool	   *no_token;
	bool	   *no_result = NULL;
	int			n = read_array(fcinfo, 0, INT8OID, &id, &no_id);
	int			i;

	if (read_array(fcinfo, 1, INT8OID, &token, &no_token) != n)
		jobstate_error_array_lengths("ids", "tokens");
	if (!PG_ARGISNULL(2) && read_array(fcinfo, 2, JSONBOID, &result, &no_result) != n)
		jobstate_error_array_lengths("ids", "results");
	*reports = palloc(sizeof(Report) * (n + 1));
	for (i = 0; i < n; i++)
	{
		if (no_id[i] || no_token[i])
			jobstate_error_null(no_id[i] ? "ids" : "tokens");
		(*reports)[i].id = DatumGetInt64(id[i]);
		(*reports)[i].token = DatumGetInt64(token[i]);
		(*reports)[i].order = i;
		(*reports)[i].no_result = result == NULL || no_result[i];
		(*reports)[i].result = result == NULL ? (Datum) 0 : result[i];
	}
	qsort(*reports, n, sizeof(Report), compare_reports);
	return n;
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
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	n = read_reports(fcinfo, &report);
	if (n == 0)
		return (Datum) 0;
	if (ring_hint.slots == 0)
		read_ring();
	CommandCounterIncrement();
	jobs = jobstate_jobs_open(ACL_SELECT | ACL_UPDATE, ring_hint);
	for (i = 0; i < n; i++)
	{
		bool		isnull = false;
		Datum		id = Int64GetDatum(report[i].id);

		if ((i == 0 || report[i].id != report[i - 1].id) &&
			complete_job(jobs, &report[i], now))
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &id, &isnull);
	}
	jobstate_jobs_close(jobs);
	return (Datum) 0;
}
