/*
 * src/claim.c
 *
 * Jobs are claimed: from the most urgent lane, in the order of positions, passing
 * over what others hold.  A row changes in place, without the executor's detour.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "lane.h"
#include "limit.h"
#include "queueinfo.h"

PG_FUNCTION_INFO_V1(jobstate_claim);

/* Milliseconds between two rescues, and two promotions while it has work to do */
#define RESCUE_EVERY	1000
#define PROMOTE_EVERY	100

/* So many tokens are drawn at a time. */
#define TOKENS			64

/* A claim under way */
typedef struct Claim
{
	/* what was asked for */
	text	   *queue;
	Datum		worker;
	int			wanted;

	/* the queue */
	JobstateQueueInfo info;
	JobstateLimits *limits;		/* NULL: none */
	JobstateLane *lane;

	/* the attempt that begins */
	int64		token;
	TimestampTz now;
	TimestampTz lease_until;
	ReturnSetInfo *rsinfo;
	int			taken;
} Claim;

/*
 * How urgent the lane's head is: less is more.  A job that has waited for k
 * times the queue's aging counts k priorities more urgent.
 */
static int64
urgency(Claim *claim, JobstateLane *lane)
{
	bool		isnull;
	TimestampTz since = DatumGetTimestampTz(jobstate_job_scan_value(&lane->head->scan,
																	JOB_RUN_AT, &isnull));

	return lane->priority - (claim->now - since) / claim->info.aging;
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

	for (i = 0; i < claim->info.nlanes; i++)
	{
		JobstateLane *lane = &claim->lane[(i + MyProcPid) % claim->info.nlanes];
		int64		urgent;

		if (lane->exhausted ||
			(lane->head == NULL && !jobstate_lane_next(lane, scan)))
			continue;
		urgent = claim->info.nlanes == 1 ? 0 : urgency(claim, lane);
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

static TimestampTz
later(TimestampTz now, Interval *interval)
{
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												   TimestampTzGetDatum(now),
												   IntervalPGetDatum(interval)));
}

/* When this attempt's lease is over: the job may have a timeout that is shorter. */
static TimestampTz
lease_of(Claim *claim, JobstateJobPart *part, TupleTableSlot *slot)
{
	bool		isnull;
	Datum		timeout = jobstate_job_value(part, slot, JOB_TIMEOUT, &isnull);

	if (isnull)
		return claim->lease_until;
	return Min(claim->lease_until, later(claim->now, DatumGetIntervalP(timeout)));
}

/* Takes the lane's current job, unless somebody else has it. */
static void
take_job(Claim *claim, JobstateLane *lane, Snapshot snapshot)
{
	JobstateJobPart *part = lane->head->scan.part;
	TupleTableSlot *slot;
	bool		isnull;
	int16		attempt;

	jobstate_job_scan_make_room(&lane->head->scan);
	slot = jobstate_job_scan_slot(&lane->head->scan);
	attempt = DatumGetInt16(jobstate_job_value(part, slot, JOB_ATTEMPT, &isnull));
	jobstate_job_copy(part, slot);
	jobstate_job_set(part, JOB_STATE_ID, Int16GetDatum(JOB_RUNNING));
	jobstate_job_set(part, JOB_ATTEMPT, Int16GetDatum(attempt + 1));
	jobstate_job_set(part, JOB_TOKEN, Int64GetDatum(claim->token));
	jobstate_job_set(part, JOB_CLAIMED_AT, TimestampTzGetDatum(claim->now));
	jobstate_job_set(part, JOB_LEASE_UNTIL, TimestampTzGetDatum(lease_of(claim, part, slot)));
	jobstate_job_set(part, JOB_WORKER, claim->worker);
	if (jobstate_row_update(jobstate_job_writer(part), slot, part->new, snapshot, false) != TM_Ok)
		return;
	lane->claimed = Max(lane->claimed, lane->head->position);
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
	key = jobstate_job_scan_value(&lane->head->scan, JOB_LIMIT_KEY, &isnull);
	if (!jobstate_limits_allow(claim->limits, key, isnull))
		return;
	take_job(claim, lane, snapshot);
	if (claim->taken == before)
		return;
	/* where the page was pruned for it, the key lies elsewhere by now */
	key = jobstate_job_scan_value(&lane->head->scan, JOB_LIMIT_KEY, &isnull);
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

	while (wants_more(claim) && (lane = most_urgent(claim, scan)) != NULL)
	{
		do
			take_if_allowed(claim, lane, scan->snapshot);
		while (wants_more(claim) && jobstate_lane_next(lane, scan));
		if (!lane->exhausted)
			break;
	}
	for (i = 0; i < claim->info.nlanes; i++)
		jobstate_lane_close(&claim->lane[i], scan);
}

/* A token that nobody can guess.  They are drawn many at a time, which is cheaper. */
static int64
fresh_token(void)
{
	static int64 token[TOKENS];
	static int	left = 0;

	if (left == 0)
	{
		if (!pg_strong_random(token, sizeof(token)))
			ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
							errmsg("could not generate a random token")));
		left = TOKENS;
	}
	return (token[--left] & PG_INT64_MAX) | 1;
}

/* The number that was drawn last, 0 if there was none. */
static int64
last_number(void)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		number;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = ObjectIdGetDatum(jobstate_queue_relation(QUEUE_JOB_NUMBER));
	fcinfo->args[0].isnull = false;
	number = pg_sequence_last_value(fcinfo);
	return fcinfo->isnull ? 0 : DatumGetInt64(number);
}

/* Claims from the queue, which is not paused. */
static void
claim_from(Claim *claim)
{
	JobstateLaneScan scan;
	int			i;

	CommandCounterIncrement();
	scan.last = last_number();
	scan.horizon = U64FromFullTransactionId(ReadNextFullTransactionId());
	scan.jobs = jobstate_queue_open_jobs(ACL_SELECT | ACL_UPDATE);
	claim->lane = palloc0(sizeof(JobstateLane) * claim->info.nlanes);
	for (i = 0; i < claim->info.nlanes; i++)
		jobstate_lane_open(&claim->lane[i], &claim->info.lane[i], &scan);
	scan.jobs->late = true;
	PushActiveSnapshot(GetTransactionSnapshot());
	scan.snapshot = GetActiveSnapshot();
	jobstate_lane_prove(scan.last, scan.snapshot);
	JOBSTATE_INSTANT("claim-begin");
	claim_jobs(claim, &scan);
	JOBSTATE_INSTANT("claim-taken");
	jobstate_lane_note(scan.last, scan.horizon);
	jobstate_jobs_close(scan.jobs);
	PopActiveSnapshot();
}

/* One of the queue's SQL functions, for its number */
static int64
call(SPIPlanPtr *plan, const char *sql, Claim *claim)
{
	Oid			types[] = {TEXTOID, INT4OID};
	Datum		values[2];
	bool		isnull;
	int64		n;

	values[0] = PointerGetDatum(claim->queue);
	values[1] = Int32GetDatum(claim->wanted - claim->taken);
	jobstate_spi_connect();
	if (SPI_execute_plan(jobstate_spi_plan(plan, sql, 2, types), values, NULL,
						 false, 1) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of \"%s\"", sql);
	n = DatumGetInt64(jobstate_spi_value(0, 1, &isnull));
	jobstate_spi_finish();
	return n;
}

/*
 * Whoever finds less than he asked for looks after the queue: what is due is
 * promoted, and who finds nothing rescues now and then what is overdue, so that a
 * queue needs nobody besides its workers.  What this very call has taken is not
 * to be rescued by it, however short the lease.  Returns how many jobs that may
 * have made available.
 */
static int64
tend(Claim *claim)
{
	static SPIPlanPtr rescue = NULL;
	static SPIPlanPtr promote = NULL;
	static TimestampTz rescued = 0;
	static TimestampTz promoted = 0;
	int64		n = 0;

	if (claim->taken == 0 &&
		TimestampDifferenceExceeds(rescued, claim->now, RESCUE_EVERY))
	{
		rescued = claim->now;
		n = call(&rescue, "SELECT pg_catalog.count(*) FROM jobstate.queue_rescue_lanes($2, false)", claim);
	}
	if (claim->taken > 0 &&
		!TimestampDifferenceExceeds(promoted, claim->now, PROMOTE_EVERY))
		return n;
	promoted = claim->now;
	return n + call(&promote, "SELECT jobstate.promote($1, $2)", claim);
}

static TimestampTz
lease_end(TimestampTz now, Interval *lease)
{
	TimestampTz end = later(now, lease);

	if (end <= now)
		jobstate_error_not_positive("lease");
	return end;
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
	PreventCommandIfReadOnly("claim()");
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	claim.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	claim.queue = PG_GETARG_TEXT_PP(0);
	claim.worker = PG_GETARG_DATUM(1);
	claim.wanted = PG_GETARG_INT32(2);
	if (!jobstate_queue_read(claim.queue, &claim.info) ||
		claim.info.nlanes == 0 || claim.info.paused)
		return (Datum) 0;
	if (claim.info.limited)
		claim.limits = jobstate_limits_read(claim.queue);
	claim.now = GetCurrentTimestamp();
	claim.lease_until = lease_end(claim.now, PG_ARGISNULL(3) ? &claim.info.lease :
								  PG_GETARG_INTERVAL_P(3));
	claim.token = fresh_token();
	claim_from(&claim);
	if (claim.taken < claim.wanted && tend(&claim) > 0)
		claim_from(&claim);
	return (Datum) 0;
}
