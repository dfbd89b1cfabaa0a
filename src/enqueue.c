/*
 * src/enqueue.c
 *
 * Jobs are brought in: a batch becomes rows of the job table, inserted a page at
 * a time, without the executor's detour per row.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "elements.h"
#include "lane.h"
#include "queueinfo.h"

PG_FUNCTION_INFO_V1(jobstate_enqueue);
PG_FUNCTION_INFO_V1(jobstate_enqueue_many);
PG_FUNCTION_INFO_V1(jobstate_enqueue_rows);

#define JOB_DEFERRED		3
#define USUAL_PRIORITY		2

/* Rows that go to the table together */
#define ROWS_AT_A_TIME		100

/* The arrays of a batch, in the order of the function's arguments */
typedef enum ArrayArgument
{
	KINDS = 1,
	PAYLOADS,
	PRIORITIES,
	RUN_ATS,
	UNIQUE_KEYS,
	SHARD_KEYS,
	LIMIT_KEYS,
	KNOWN = 10
} ArrayArgument;

/* A batch under way */
typedef struct Batch
{
	JobstateElements given[KNOWN + 1];
	Datum		queue;
	bool		no_queue;
	int32		max_attempts;
	bool		no_max_attempts;
	Datum		timeout;
	bool		no_timeout;

	/* the queue */
	JobstateQueueInfo info;
	int16	   *lane;			/* by priority and shard; 0: does not exist */

	/* the rows */
	JobstateJobTable *jobs;
	Oid			sequence;
	TimestampTz now;
	Datum	   *id;
	JobstateJobPart *part;
	TupleTableSlot *row[ROWS_AT_A_TIME];
	int			nrows;
	int64		last;			/* number drawn last */
	bool		due;			/* something can be claimed at once */
} Batch;

static int16 *
lane_place(Batch *batch, int priority, int shard)
{
	return &batch->lane[(priority - 1) * batch->info.shards + shard];
}

/* The queue and its lanes.  False: there is no such queue. */
static bool
read_queue(Batch *batch)
{
	JobstateQueueInfo *info = &batch->info;
	int			i;

	if (!jobstate_queue_read((text *) DatumGetPointer(batch->queue), info))
		return false;
	batch->lane = palloc0(sizeof(int16) * QUEUE_PRIORITIES * info->shards);
	for (i = 0; i < info->nlanes; i++)
		if (info->lane[i].priority >= 1 && info->lane[i].priority <= QUEUE_PRIORITIES &&
			info->lane[i].shard >= 0 && info->lane[i].shard < info->shards)
			*lane_place(batch, info->lane[i].priority,
						info->lane[i].shard) = info->lane[i].lane;
	return true;
}

static bool
given(Batch *batch, ArrayArgument which, int i)
{
	return jobstate_elements_has(&batch->given[which], i);
}

static int
priority_of(Batch *batch, int i)
{
	return given(batch, PRIORITIES, i) ?
		DatumGetInt32(batch->given[PRIORITIES].value[i]) : USUAL_PRIORITY;
}

/* A key's jobs share a shard; the others take turns, in the order of numbers. */
static int
shard_of(Batch *batch, int i, int64 number)
{
	if (batch->info.shards == 1)
		return 0;
	if (given(batch, SHARD_KEYS, i))
		return (DatumGetUInt32(DirectFunctionCall1Coll(hashtext, C_COLLATION_OID,
													   batch->given[SHARD_KEYS].value[i])) &
				PG_INT32_MAX) % batch->info.shards;
	return number % batch->info.shards;
}

/* Is there a lane for every job?  A shard that is chosen by turns may be any. */
static bool
has_lanes(Batch *batch)
{
	int			i;
	int			shard;

	for (i = 0; i < batch->given[KINDS].n; i++)
	{
		int			priority = priority_of(batch, i);

		for (shard = 0; shard < batch->info.shards; shard++)
			if (*lane_place(batch, priority, shard) == 0)
				return false;
	}
	return true;
}

static void
write_rows(Batch *batch)
{
	int			i;

	if (batch->nrows == 0)
		return;
	jobstate_rows_insert(jobstate_job_writer(batch->part), batch->row, batch->nrows);
	for (i = 0; i < batch->nrows; i++)
		ExecClearTuple(batch->row[i]);
	batch->nrows = 0;
}

static void
drop_rows(Batch *batch)
{
	int			i;

	for (i = 0; i < ROWS_AT_A_TIME && batch->row[i] != NULL; i++)
		ExecDropSingleTupleTableSlot(batch->row[i]);
	memset(batch->row, 0, sizeof(batch->row));
}

/* Columns that somebody added to the job table get their defaults. */
static void
want_defaults(JobstateJobPart *part)
{
	JobstateRowWriter *writer = jobstate_job_writer(part);
	Bitmapset  *ours = NULL;
	int			natts = RelationGetDescr(part->rel)->natts;
	int			i;

	if (writer->defaults != NIL || natts == JOB_COLUMNS)
		return;
	for (i = 0; i < JOB_COLUMNS; i++)
		ours = bms_add_member(ours, part->attno[i]);
	for (i = 1; i <= natts; i++)
		if (!bms_is_member(i, ours))
			jobstate_row_add_default(writer, i);
}

/* An empty row of the slot's partition */
static TupleTableSlot *
new_row(Batch *batch, int slot)
{
	JobstateJobPart *part = jobstate_jobs_part(batch->jobs, slot);
	TupleTableSlot *row;

	if (part != batch->part)
	{
		write_rows(batch);
		drop_rows(batch);
		want_defaults(part);
		batch->part = part;
	}
	if (batch->nrows == ROWS_AT_A_TIME)
		write_rows(batch);
	if (batch->row[batch->nrows] == NULL)
		batch->row[batch->nrows] = table_slot_create(part->rel, NULL);
	row = batch->row[batch->nrows++];
	memset(row->tts_isnull, true, row->tts_tupleDescriptor->natts * sizeof(bool));
	jobstate_row_defaults(part->writer, row);
	return row;
}

static void
set(Batch *batch, TupleTableSlot *row, JobColumn column, Datum value)
{
	AttrNumber	attno = batch->part->attno[column];

	row->tts_values[attno - 1] = value;
	row->tts_isnull[attno - 1] = false;
}

static void
set_if_given(Batch *batch, TupleTableSlot *row, JobColumn column,
			 ArrayArgument which, int i)
{
	if (given(batch, which, i))
		set(batch, row, column, batch->given[which].value[i]);
}

/*
 * One job becomes a row.  The transaction has its id before the number is drawn,
 * so that those who look for a lane's lower bound can wait for it (lane.c).
 */
static void
add_job(Batch *batch, int i)
{
	int64		number = nextval_internal(batch->sequence, true);
	int			priority = priority_of(batch, i);
	int64		position = JOB_POSITION(*lane_place(batch, priority,
												 shard_of(batch, i, number)), number);
	TimestampTz run_at = given(batch, RUN_ATS, i) ?
		DatumGetTimestampTz(batch->given[RUN_ATS].value[i]) : batch->now;
	bool		due = run_at <= batch->now;
	int			slot = due ? jobstate_job_slot(&batch->jobs->ring, position) : JOB_SLOT_WAITING;
	TupleTableSlot *row = new_row(batch, slot);

	batch->last = number;
	set(batch, row, JOB_ID, Int64GetDatum(position));
	set(batch, row, JOB_POSITION_COLUMN, Int64GetDatum(position));
	set(batch, row, JOB_ENQUEUED_AT, TimestampTzGetDatum(batch->now));
	set(batch, row, JOB_RUN_AT, TimestampTzGetDatum(run_at));
	set(batch, row, JOB_SLOT, Int16GetDatum(slot));
	set(batch, row, JOB_PRIORITY, Int16GetDatum(priority));
	set(batch, row, JOB_MAX_ATTEMPTS, Int16GetDatum(batch->max_attempts));
	set(batch, row, JOB_ATTEMPT, Int16GetDatum(0));
	set(batch, row, JOB_STATE_ID, Int16GetDatum(due ? JOB_AVAILABLE : JOB_DEFERRED));
	set(batch, row, JOB_CANCEL_REQUESTED, BoolGetDatum(false));
	set(batch, row, JOB_QUEUE, batch->queue);
	set_if_given(batch, row, JOB_KIND, KINDS, i);
	set_if_given(batch, row, JOB_UNIQUE_KEY, UNIQUE_KEYS, i);
	set_if_given(batch, row, JOB_LIMIT_KEY, LIMIT_KEYS, i);
	set_if_given(batch, row, JOB_PAYLOAD, PAYLOADS, i);
	if (!batch->no_timeout)
		set(batch, row, JOB_TIMEOUT, batch->timeout);
	ExecStoreVirtualTuple(row);
	batch->id[i] = Int64GetDatum(position);
	batch->due |= due;
}

static void
add_jobs(Batch *batch)
{
	int			n = batch->given[KINDS].n;
	int			i;

	(void) GetTopTransactionId();
	batch->sequence = jobstate_queue_relation(QUEUE_JOB_NUMBER);
	batch->id = palloc(sizeof(Datum) * (n + 1));
	batch->now = GetCurrentTimestamp();
	batch->jobs = jobstate_queue_open_jobs(ACL_INSERT);
	for (i = 0; i < n; i++)
		if (given(batch, KNOWN, i))
			batch->id[i] = batch->given[KNOWN].value[i];
		else
			add_job(batch, i);
	if (batch->last > 0)
		jobstate_lane_note(batch->last, U64FromFullTransactionId(ReadNextFullTransactionId()));
	write_rows(batch);
	drop_rows(batch);
	jobstate_jobs_close(batch->jobs);
	if (batch->info.notify && batch->due)
		Async_Notify("jobstate_queue", TextDatumGetCString(batch->queue));
}

/* For a single job: an argument is a list of one. */
static void
read_single(FunctionCallInfo fcinfo, int argno, Batch *batch, ArrayArgument which)
{
	JobstateElements *elements = &batch->given[which];

	elements->n = 1;
	elements->value = &fcinfo->args[argno].value;
	elements->isnull = &fcinfo->args[argno].isnull;
}

/* What all forms have in common */
static void
read_common(FunctionCallInfo fcinfo, Batch *batch, int attempts, int timeout)
{
	PreventCommandIfReadOnly("enqueue()");
	batch->no_queue = PG_ARGISNULL(0);
	if (!batch->no_queue)
		batch->queue = PointerGetDatum(PG_GETARG_TEXT_PP(0));
	batch->max_attempts = PG_ARGISNULL(attempts) ? 0 : PG_GETARG_INT32(attempts);
	batch->no_max_attempts = PG_ARGISNULL(attempts);
	batch->timeout = PG_GETARG_DATUM(timeout);
	batch->no_timeout = PG_ARGISNULL(timeout);
}

/* Is every array as long as that of the kinds, or not given? */
static bool
fits(Batch *batch)
{
	int			which;

	for (which = PAYLOADS; which <= KNOWN; which++)
		if (batch->given[which].n != batch->given[KINDS].n &&
			batch->given[which].n != 0)
			return false;
	return batch->given[PAYLOADS].n == batch->given[KINDS].n;
}

/* Is the batch as it should be?  If not, SQL says what is wrong with it. */
static bool
is_sound(Batch *batch)
{
	Interval	none = {0};
	int			i;

	if (batch->no_queue || VARSIZE_ANY_EXHDR(DatumGetPointer(batch->queue)) == 0 ||
		!fits(batch) ||
		(!batch->no_max_attempts &&
		 (batch->max_attempts < 1 || batch->max_attempts > PG_INT16_MAX)) ||
		(!batch->no_timeout &&
		 !DatumGetBool(DirectFunctionCall2(interval_gt, batch->timeout,
										   IntervalPGetDatum(&none)))))
		return false;
	for (i = 0; i < batch->given[KINDS].n; i++)
		if (!given(batch, KINDS, i) || !given(batch, PAYLOADS, i) ||
			priority_of(batch, i) < 1 || priority_of(batch, i) > QUEUE_PRIORITIES)
			return false;
	return true;
}

/*
 * Brings the batch in.  False: the queue or a lane does not exist, or something
 * is wrong with the batch, and nothing was written.
 */
static bool
bring_in(Batch *batch)
{
	if (!is_sound(batch) || !read_queue(batch) || !has_lanes(batch))
		return false;
	if (batch->no_max_attempts)
		batch->max_attempts = batch->info.max_attempts;
	add_jobs(batch);
	return true;
}

/*
 * enqueue_rows(queue, kinds, payloads, priorities, run_ats, unique_keys, shard_keys,
 * limit_keys, max_attempts, timeout, known) returns bigint[]
 *
 * The ids in the order given; a job that is known already keeps its id and gets
 * no row.  NULL: nothing was written, see bring_in().
 */
Datum
jobstate_enqueue_rows(PG_FUNCTION_ARGS)
{
	Batch	   *batch = palloc0(sizeof(Batch));

	read_common(fcinfo, batch, 8, 9);
	jobstate_elements_read(fcinfo, 1, TEXTOID, &batch->given[KINDS]);
	jobstate_elements_read(fcinfo, 2, JSONBOID, &batch->given[PAYLOADS]);
	jobstate_elements_read(fcinfo, 3, INT4OID, &batch->given[PRIORITIES]);
	jobstate_elements_read(fcinfo, 4, TIMESTAMPTZOID, &batch->given[RUN_ATS]);
	jobstate_elements_read(fcinfo, 5, TEXTOID, &batch->given[UNIQUE_KEYS]);
	jobstate_elements_read(fcinfo, 6, TEXTOID, &batch->given[SHARD_KEYS]);
	jobstate_elements_read(fcinfo, 7, TEXTOID, &batch->given[LIMIT_KEYS]);
	jobstate_elements_read(fcinfo, 10, INT8OID, &batch->given[KNOWN]);
	if (!bring_in(batch))
		PG_RETURN_NULL();
	PG_RETURN_ARRAYTYPE_P(construct_array(batch->id, batch->given[KINDS].n, INT8OID, 8,
										  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * Leaves the call to the function in SQL of the same arguments, and fetches its
 * result: SPI stays connected.
 */
static void
leave_to_sql(FunctionCallInfo fcinfo, SPIPlanPtr *plan, const char *sql, Oid *types)
{
	Datum		values[FUNC_MAX_ARGS];
	char		nulls[FUNC_MAX_ARGS];
	int			i;

	for (i = 0; i < PG_NARGS(); i++)
	{
		values[i] = fcinfo->args[i].value;
		nulls[i] = fcinfo->args[i].isnull ? 'n' : ' ';
	}
	jobstate_spi_connect();
	if (SPI_execute_plan(jobstate_spi_plan(plan, sql, PG_NARGS(), types), values, nulls,
						 false, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of \"%s\"", sql);
}

/* enqueue(): one job */
Datum
jobstate_enqueue(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {
		TEXTOID, TEXTOID, JSONBOID, INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTARRAYOID,
		INT4OID, TEXTOID, TEXTOID, INTERVALOID
	};
	Batch	   *batch = palloc0(sizeof(Batch));
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	read_common(fcinfo, batch, 7, 10);
	read_single(fcinfo, 1, batch, KINDS);
	read_single(fcinfo, 2, batch, PAYLOADS);
	read_single(fcinfo, 3, batch, PRIORITIES);
	read_single(fcinfo, 4, batch, RUN_ATS);
	read_single(fcinfo, 8, batch, SHARD_KEYS);
	read_single(fcinfo, 9, batch, LIMIT_KEYS);
	if (!PG_ARGISNULL(3) && PG_ARGISNULL(5) && bring_in(batch))
	{
		values[0] = batch->id[0];
		values[1] = BoolGetDatum(false);
	}
	else
	{
		leave_to_sql(fcinfo, &plan, "SELECT e.id, e.duplicate FROM jobstate.enqueue_slowly"
					 "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) e", types);
		values[0] = jobstate_spi_value(0, 1, &nulls[0]);
		values[1] = jobstate_spi_value(0, 2, &nulls[1]);
		jobstate_spi_finish();
	}
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "enqueue() returns a row");
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

static bool
has_unique_keys(FunctionCallInfo fcinfo, Batch *batch, int argno)
{
	int			i;

	jobstate_elements_read(fcinfo, argno, TEXTOID, &batch->given[UNIQUE_KEYS]);
	for (i = 0; i < batch->given[UNIQUE_KEYS].n; i++)
		if (!batch->given[UNIQUE_KEYS].isnull[i])
			return true;
	batch->given[UNIQUE_KEYS].n = 0;
	return false;
}

/* enqueue_many(): a batch */
Datum
jobstate_enqueue_many(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {
		TEXTOID, TEXTARRAYOID, JSONBARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID,
		TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT4OID, INTERVALOID
	};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Batch	   *batch = palloc0(sizeof(Batch));
	bool		fast;
	int			n;
	int			i;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	read_common(fcinfo, batch, 9, 10);
	jobstate_elements_read(fcinfo, 1, TEXTOID, &batch->given[KINDS]);
	jobstate_elements_read(fcinfo, 2, JSONBOID, &batch->given[PAYLOADS]);
	jobstate_elements_read(fcinfo, 3, INT4OID, &batch->given[PRIORITIES]);
	jobstate_elements_read(fcinfo, 4, TIMESTAMPTZOID, &batch->given[RUN_ATS]);
	jobstate_elements_read(fcinfo, 7, TEXTOID, &batch->given[SHARD_KEYS]);
	jobstate_elements_read(fcinfo, 8, TEXTOID, &batch->given[LIMIT_KEYS]);
	fast = batch->given[KINDS].n > 0 && !has_unique_keys(fcinfo, batch, 5) && bring_in(batch);
	if (!fast)
		leave_to_sql(fcinfo, &plan, "SELECT e.id, e.duplicate FROM jobstate.enqueue_many_slowly"
					 "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) e", types);
	n = fast ? batch->given[KINDS].n : (int) SPI_processed;
	for (i = 0; i < n; i++)
	{
		bool		nulls[2] = {false, false};
		Datum		values[2];

		values[0] = fast ? batch->id[i] : jobstate_spi_value(i, 1, &nulls[0]);
		values[1] = fast ? BoolGetDatum(false) : jobstate_spi_value(i, 2, &nulls[1]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	if (!fast)
		jobstate_spi_finish();
	return (Datum) 0;
}
