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
 * An enqueue notes the number that it drew in the same way: the more is noted,
 * the sooner something is proven.
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
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "familytable.h"
#include "lane.h"
#include "recount.h"

/* Publish a floor after passing over this many rows in vain */
#define PASSED_ENOUGH		500

/* And a ceiling for this many numbers to come */
#define CEILING_AHEAD		4096

/* So many may wait to be proven */
#define CANDIDATES			8

/* After this many new numbers look again what others have published */
#define WINDOW_LASTS		500

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
	int64		passed;

	/* the window, as committed, and when it was read */
	JobstateLaneWindow window;
	uint64		read_in;		/* generation of the queue's relations; 0: never */
	int64		read_at;		/* number drawn last */
} KnownLane;

/* What this backend knows of the numbers, whatever their lanes */
static struct
{
	Oid			sequence;
	int64		proven;			/* no job of this number or a lower one comes */
	int			ncandidates;
	Candidate	candidate[CANDIDATES];	/* the next ones, in order */
} numbers;

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

/* A position of the window's row, whose columns are where install_queue() puts them. */
static int64
bound(Relation rel, TupleTableSlot *slot, const char *name, AttrNumber place)
{
	JobstateColumn column = {name, INT8OID, place};
	bool		isnull;

	return DatumGetInt64(slot_getattr(slot, jobstate_family_column(rel, &column), &isnull));
}

/* Is the row this transaction's, which may yet be rolled back? */
static bool
is_own(TupleTableSlot *slot)
{
	bool		isnull;

	return TransactionIdIsCurrentTransactionId(
		DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber,
											  &isnull)));
}

/* The lane's row with the greatest ceiling.  Returns whether it is there to stay. */
static bool
read_window(int lane, JobstateLaneWindow *window)
{
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	static const JobstateColumn lane_column = {"lane", INT2OID, 1};
	Relation	rel = jobstate_family_table_open(jobstate_queue_relation(QUEUE_WINDOW), AccessShareLock);
	Relation	index = jobstate_family_index_open(rel, jobstate_queue_relation(QUEUE_WINDOW_LANE),
												   jobstate_family_column(rel, &lane_column),
												   AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	IndexScanDesc scan = jobstate_index_beginscan(rel, index, snapshot, 1);
	ScanKeyData key;
	bool		stays = true;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(lane));
	index_rescan(scan, &key, 1, NULL, 0);
	window->floor = window->settled = window->ceiling = JOB_POSITION(lane, 0);
	if (index_getnext_slot(scan, BackwardScanDirection, slot))
	{
		window->floor = bound(rel, slot, "floor", 2);
		window->ceiling = bound(rel, slot, "ceiling", 3);
		window->settled = bound(rel, slot, "settled", 4);
		stays = !is_own(slot);
	}
	index_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return stays;
}

/* Reads the window, and what is known of its lane goes where it was begun anew. */
static void
look_at_window(JobstateLane *lane, KnownLane *known, int64 last)
{
	uint64		generation = jobstate_queue_generation();
	bool		stays = read_window(lane->lane, &lane->window);

	if (lane->window.ceiling < known->ceiling)
	{
		known->floor = known->pending = 0;
		memset(&numbers, 0, sizeof(numbers));
	}
	known->window = lane->window;
	known->read_in = stays ? generation : 0;
	known->read_at = last;
}

/*
 * The window as it was when it was read last, or as it is now.  An older one is
 * as right as a newer one, only less helpful: its floor is lower, and so is its
 * ceiling.
 */
static void
recall_window(JobstateLane *lane, KnownLane *known, int64 last)
{
	if (known->read_in == jobstate_queue_generation() &&
		last - known->read_at < WINDOW_LASTS && last >= known->read_at)
		lane->window = known->window;
	else
		look_at_window(lane, known, last);
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
	recall_window(lane, known, scan->last);
	lane->start = Max(lane->window.floor, known->floor);
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

/* Begins to look at the lane's jobs in a slot, up to a position. */
static void
cursor_begin(JobstateLaneCursor *cursor, JobstateLane *lane, JobstateLaneScan *scan,
			 int slot, int64 end)
{
	JobstateJobPart *part = jobstate_jobs_part(scan->jobs, slot);

	if (part->late || IsolationUsesXactSnapshot())
		lane->unsure |= jobstate_file_is_newer(part->rel, scan->snapshot);
	if (RelationGetNumberOfBlocks(part->rel) > 0)
		jobstate_job_scan_begin(&cursor->scan, part, scan->snapshot, lane->start, end);
}

/*
 * Steps to the next available job that nobody holds.  False: there is none, and
 * the cursor ends.
 */
static bool
cursor_next(JobstateLaneCursor *cursor, JobstateLane *lane)
{
	JobstateJobScan *scan = &cursor->scan;
	bool		isnull;

	while (scan->part != NULL && jobstate_job_scan_next(scan))
	{
		if (DatumGetInt16(jobstate_job_scan_value(scan, JOB_STATE_ID,
												  &isnull)) == JOB_AVAILABLE)
		{
			cursor->position = DatumGetInt64(jobstate_job_scan_value(scan, JOB_POSITION_COLUMN,
																	 &isnull));
			if (lane->first == 0 || cursor->position < lane->first)
				lane->first = cursor->position;
			if (!jobstate_job_scan_held(scan))
				return true;
		}
		lane->passed++;
		CHECK_FOR_INTERRUPTS();
	}
	jobstate_job_scan_end(scan);
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

	if (cursor_next(&lane->ring, lane))
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

	if (lane->kept.scan.part == NULL && lane->ring.scan.part == NULL)
	{
		lane->exhausted = true;
		return false;
	}
	lane->head = &lane->ring;
	if (lane->ring.scan.part == NULL ||
		(lane->kept.scan.part != NULL && lane->kept.position < lane->ring.position))
		lane->head = &lane->kept;
	return true;
}

/* The oldest transaction id that the snapshot sees running, with its epoch */
static uint64
full_xmin(Snapshot snapshot)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());

	return next - (uint32) ((uint32) next - snapshot->xmin);
}

/* Forgets the numbers where the sequence is another one, or was set back. */
static void
trust_numbers(int64 last)
{
	Oid			sequence = jobstate_queue_relation(QUEUE_JOB_NUMBER);
	int			n = numbers.ncandidates;

	if (numbers.sequence == sequence && last >= numbers.proven &&
		(n == 0 || last >= numbers.candidate[n - 1].number))
		return;
	memset(&numbers, 0, sizeof(numbers));
	numbers.sequence = sequence;
}

/*
 * Remembers that whoever drew this number, the last one so far, or a lower one
 * has an id below the horizon, which was asked for after that.
 */
void
jobstate_lane_note(int64 last, uint64 horizon)
{
	Candidate  *newest;

	trust_numbers(last);
	newest = &numbers.candidate[numbers.ncandidates];
	if (numbers.ncandidates == CANDIDATES ||
		(numbers.ncandidates > 0 && newest[-1].number == last))
		return;
	newest->number = last;
	newest->horizon = horizon;
	numbers.ncandidates++;
}

/*
 * Before lanes are looked at: the candidates go whose transactions the snapshot
 * sees ended, and the last of them is proven.
 */
void
jobstate_lane_prove(int64 last, Snapshot snapshot)
{
	uint64		xmin = full_xmin(snapshot);
	int			n = 0;
	int			i;

	trust_numbers(last);
	for (i = 0; i < numbers.ncandidates; i++)
		if (numbers.candidate[i].horizon <= xmin)
			numbers.proven = Max(numbers.proven, numbers.candidate[i].number);
		else
			numbers.candidate[n++] = numbers.candidate[i];
	numbers.ncandidates = n;
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
	known->ceiling = lane->window.ceiling;
	known->passed += lane->passed;
	known->pending = Max(known->pending,
						 Min(first, JOB_POSITION(lane->lane, numbers.proven + 1)));
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

/*
 * Has a job been claimed at or above the ceiling?  A ceiling that is remembered
 * is a low one, so the question is asked twice.
 */
static bool
is_above_ceiling(JobstateLane *lane, KnownLane *known, int64 last)
{
	if (lane->claimed < lane->window.ceiling)
		return false;
	look_at_window(lane, known, last);
	return lane->claimed >= lane->window.ceiling;
}

/* Ends a scan: what was learned is remembered, and published where it is due. */
void
jobstate_lane_close(JobstateLane *lane, JobstateLaneScan *scan)
{
	KnownLane  *known = known_lane(lane->lane);
	JobstateLaneWindow *window = &lane->window;
	int64		floor;

	jobstate_job_scan_end(&lane->kept.scan);
	jobstate_job_scan_end(&lane->ring.scan);
	learn_floor(lane, scan, known);
	/* whoever reads it will do so once this transaction has committed */
	floor = Max(window->floor, Max(known->floor, known->pending));
	if (is_above_ceiling(lane, known, scan->last))
		window->ceiling = Max(lane->claimed, JOB_POSITION(lane->lane, scan->last)) +
			CEILING_AHEAD;
	else if (floor <= window->floor || known->passed < PASSED_ENOUGH)
		return;
	publish(lane->lane, floor, window->ceiling, window->settled);
	known->passed = 0;
	known->read_in = 0;
}
