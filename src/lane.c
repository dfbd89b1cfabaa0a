/*
 * src/lane.c
 *
 * Available jobs of a lane, in order.
 *
 * The index on positions cannot tell an available job from one that is done, so
 * a scan begins at a lower bound, the lane's floor.
 * Problem: the floor must never pass a job that is, or becomes, available.  Jobs
 * become available only by being inserted at a new position, so what is
 * dangerous are transactions that drew a low number and have not committed.
 * Solution: each scan takes note of the number drawn last and, after that, of the
 * next transaction id.  Whoever drew that number, or one before it, had a lower
 * id.  A later scan whose snapshot sees all of those ended sees all jobs of these
 * numbers that there will ever be: below the first that it finds available, and
 * not above these numbers, is a floor for ever.
 * A scan also sees what its own transaction has done, so a floor counts only
 * once that transaction has committed.  And it misses jobs that were carried out
 * of a slot which was emptied since its snapshot: then it teaches nothing.  The
 * partitions where it will most likely look are opened before the snapshot is
 * taken, and nobody empties them then.
 *
 * Each backend keeps its floors, and publishes one now and then for backends
 * that are new: jobstate.queue_window is only appended to, so nobody waits for
 * it, and the row with the greatest ceiling counts.  The ceiling is for those
 * who look for claimed jobs: none was ever claimed at or above it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "lane.h"
#include "recount.h"

/* Publish a floor after passing over this many rows in vain */
#define PASSED_ENOUGH		500

/* And a ceiling for this many numbers to come */
#define CEILING_AHEAD		4096

/* So many may wait to be proven */
#define CANDIDATES			4

/* Once all below horizon have ended, no job of this number or a lower one comes */
typedef struct Candidate
{
	int64		number;
	uint64		horizon;
} Candidate;

/* What this backend knows of a lane */
typedef struct KnownLane
{
	struct
	{
		Oid			window;
		int32		lane;
	}			key;			/* hash key */
	int64		ceiling;		/* seen when the floor was computed */
	int64		floor;
	int64		pending;		/* the floor, once this transaction commits */
	int64		proven;			/* no job of this number or a lower one comes */
	int			ncandidates;
	Candidate	candidate[CANDIDATES];	/* the next ones, in order */
	int64		passed;
} KnownLane;

static HTAB *known_lanes = NULL;

static KnownLane *
known_lane(int lane)
{
	KnownLane	wanted = {0};
	KnownLane  *known;
	bool		found;

	wanted.key.window = jobstate_queue_relation(QUEUE_WINDOW);
	wanted.key.lane = lane;
	if (known_lanes == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(wanted.key);
		ctl.entrysize = sizeof(KnownLane);
		known_lanes = hash_create("jobstate lanes", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	known = hash_search(known_lanes, &wanted.key, HASH_ENTER, &found);
	if (!found)
		*known = wanted;
	return known;
}

static void
settle_pending(bool committed)
{
	HASH_SEQ_STATUS status;
	KnownLane  *known;

	if (known_lanes == NULL)
		return;
	hash_seq_init(&status, known_lanes);
	while ((known = hash_seq_search(&status)) != NULL)
	{
		if (committed && known->pending > known->floor)
			known->floor = known->pending;
		known->pending = 0;
	}
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT)
		settle_pending(true);
	else if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		settle_pending(false);
}

static void
at_subtransaction_end(SubXactEvent event, SubTransactionId mine,
					  SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		settle_pending(false);
}

void
jobstate_lane_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
	RegisterSubXactCallback(at_subtransaction_end, NULL);
}

static int64
column(TupleTableSlot *slot, int attno)
{
	bool		isnull;

	return DatumGetInt64(slot_getattr(slot, attno, &isnull));
}

/* The lane's row with the greatest ceiling */
static void
read_window(JobstateLane *lane)
{
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	Relation	rel = table_open(jobstate_queue_relation(QUEUE_WINDOW), AccessShareLock);
	Relation	index = index_open(jobstate_queue_relation(QUEUE_WINDOW_LANE),
								   AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	IndexScanDesc scan = jobstate_index_beginscan(rel, index, snapshot, 1);
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(lane->lane));
	index_rescan(scan, &key, 1, NULL, 0);
	lane->floor = lane->settled = lane->ceiling = JOB_POSITION(lane->lane, 0);
	if (index_getnext_slot(scan, BackwardScanDirection, slot))
	{
		lane->floor = column(slot, 2);
		lane->ceiling = column(slot, 3);
		lane->settled = column(slot, 4);
	}
	index_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

static void
open_slot_of(JobstateJobTable *jobs, int64 number)
{
	(void) jobstate_jobs_part(jobs, jobstate_job_slot(&jobs->ring, number));
}

/* Where a scan of the lane is to begin.  The snapshot is for later. */
void
jobstate_lane_open(JobstateLane *lane, JobstateLaneInfo *info, JobstateLaneScan *scan)
{
	KnownLane  *known = known_lane(info->lane);

	lane->lane = info->lane;
	lane->priority = info->priority;
	read_window(lane);
	if (lane->ceiling < known->ceiling)		/* begun anew */
		known->floor = known->pending = known->proven = known->ncandidates = 0;
	lane->start = Max(lane->floor, known->floor);
	lane->lap = JOB_NUMBER(lane->start) / scan->jobs->ring.slot_jobs;
	memset(&lane->kept, 0, sizeof(lane->kept));
	memset(&lane->ring, 0, sizeof(lane->ring));
	lane->head = NULL;
	lane->exhausted = lane->unsure = false;
	lane->first = lane->passed = lane->claimed = 0;

	(void) jobstate_jobs_part(scan->jobs, JOB_SLOT_KEPT);
	open_slot_of(scan->jobs, lane->start);
	open_slot_of(scan->jobs, scan->last);
}

static void
cursor_end(JobstateLaneCursor *cursor)
{
	if (cursor->part == NULL)
		return;
	index_endscan(cursor->scan);
	ExecDropSingleTupleTableSlot(cursor->slot);
	cursor->part = NULL;
}

/* Begins to look at the lane's jobs in a slot, up to a position. */
static void
cursor_begin(JobstateLaneCursor *cursor, JobstateLane *lane, JobstateLaneScan *scan,
			 int slot, int64 end)
{
	ScanKeyData key[2];
	Relation	rel;

	cursor->part = jobstate_jobs_part(scan->jobs, slot);
	rel = cursor->part->writer->rel;
	if (cursor->part->late || IsolationUsesXactSnapshot())
		lane->unsure |= jobstate_file_is_newer(rel, scan->snapshot);
	cursor->slot = table_slot_create(rel, NULL);
	cursor->scan = jobstate_index_beginscan(rel, cursor->part->pkey, scan->snapshot, 2);
	ScanKeyInit(&key[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE,
				Int64GetDatum(lane->start));
	ScanKeyInit(&key[1], 1, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(end));
	index_rescan(cursor->scan, key, 2, NULL, 0);
}

/* Steps to the next available job.  False: there is none, and the cursor ends. */
static bool
cursor_next(JobstateLaneCursor *cursor, JobstateLane *lane)
{
	bool		isnull;

	while (index_getnext_slot(cursor->scan, ForwardScanDirection, cursor->slot))
	{
		if (DatumGetInt16(jobstate_job_value(cursor->part, cursor->slot, JOB_STATE_ID,
											 &isnull)) == JOB_AVAILABLE)
		{
			cursor->position = DatumGetInt64(jobstate_job_value(cursor->part, cursor->slot,
																JOB_POSITION_COLUMN, &isnull));
			return true;
		}
		lane->passed++;
		CHECK_FOR_INTERRUPTS();
	}
	cursor_end(cursor);
	return false;
}

/*
 * Steps to the next job on the ring.  A slot that was not emptied in time holds
 * several laps, so each lap of a slot is looked at on its own.
 */
static void
ring_next(JobstateLane *lane, JobstateLaneScan *scan)
{
	JobstateRing *ring = &scan->jobs->ring;

	if (lane->ring.part != NULL && cursor_next(&lane->ring, lane))
		return;
	while (lane->lap * ring->slot_jobs <= scan->last)
	{
		int64		lap = lane->lap++;

		cursor_begin(&lane->ring, lane, scan, lap % ring->slots,
					 JOB_POSITION(lane->lane, (lap + 1) * ring->slot_jobs));
		if (cursor_next(&lane->ring, lane))
			return;
	}
}

/* Steps to the lane's next available job, on the ring or among what was kept. */
bool
jobstate_lane_next(JobstateLane *lane, JobstateLaneScan *scan)
{
	if (lane->head == NULL)
	{
		cursor_begin(&lane->kept, lane, scan, JOB_SLOT_KEPT,
					 JOB_POSITION(lane->lane + 1, 0));
		(void) cursor_next(&lane->kept, lane);
		ring_next(lane, scan);
	}
	else if (lane->head == &lane->kept)
		(void) cursor_next(&lane->kept, lane);
	else
		ring_next(lane, scan);

	if (lane->kept.part == NULL && lane->ring.part == NULL)
	{
		lane->exhausted = true;
		return false;
	}
	lane->head = &lane->ring;
	if (lane->ring.part == NULL ||
		(lane->kept.part != NULL && lane->kept.position < lane->ring.position))
		lane->head = &lane->kept;
	if (lane->first == 0)
		lane->first = lane->head->position;
	return true;
}

/* The oldest transaction id that the snapshot sees running, with its epoch */
static uint64
full_xmin(Snapshot snapshot)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	return next - (uint32) ((uint32) next - snapshot->xmin);
}

/* The candidates go whose transactions have ended; the last of them is proven. */
static void
prove_candidates(KnownLane *known, uint64 xmin)
{
	int			n = 0;
	int			i;

	for (i = 0; i < known->ncandidates; i++)
		if (known->candidate[i].horizon <= xmin)
			known->proven = Max(known->proven, known->candidate[i].number);
		else
			known->candidate[n++] = known->candidate[i];
	known->ncandidates = n;
}

/* What the scan taught about the floor; see above. */
static void
learn_floor(JobstateLane *lane, JobstateLaneScan *scan, KnownLane *known)
{
	int64		first = lane->first;

	if (first == 0 && lane->exhausted)
		first = JOB_POSITION(lane->lane + 1, 0);
	if (first == 0 || lane->unsure)
		return;
	known->ceiling = lane->ceiling;
	known->passed += lane->passed;
	prove_candidates(known, full_xmin(scan->snapshot));
	known->pending = Max(known->pending,
						 Min(first, JOB_POSITION(lane->lane, known->proven + 1)));
	if (known->ncandidates < CANDIDATES)
		known->candidate[known->ncandidates++] = (Candidate) {scan->last, scan->horizon};
}

static void
publish(int16 lane, int64 floor, int64 ceiling, int64 settled)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT2OID, INT8OID, INT8OID, INT8OID};
	Datum		values[4];

	jobstate_spi_connect();
	(void) jobstate_spi_plan(&plan, "INSERT INTO jobstate.queue_window VALUES ($1, $2, $3, $4)",
							 4, types);
	values[0] = Int16GetDatum(lane);
	values[1] = Int64GetDatum(floor);
	values[2] = Int64GetDatum(ceiling);
	values[3] = Int64GetDatum(settled);
	if (SPI_execute_plan(plan, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write jobstate.queue_window");
	jobstate_spi_finish();
}

/* Ends a scan: what was learned is remembered, and published where it is due. */
void
jobstate_lane_close(JobstateLane *lane, JobstateLaneScan *scan)
{
	KnownLane  *known = known_lane(lane->lane);
	int64		floor;

	cursor_end(&lane->kept);
	cursor_end(&lane->ring);
	learn_floor(lane, scan, known);
	/* whoever reads it will do so once this transaction has committed */
	floor = Max(lane->floor, Max(known->floor, known->pending));
	if (lane->claimed >= lane->ceiling)
		lane->ceiling = Max(lane->claimed, JOB_POSITION(lane->lane, scan->last)) +
			CEILING_AHEAD;
	else if (floor == lane->floor || known->passed < PASSED_ENOUGH)
		return;
	publish(lane->lane, floor, lane->ceiling, lane->settled);
	known->passed = 0;
}
