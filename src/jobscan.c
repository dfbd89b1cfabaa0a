/*
 * src/jobscan.c
 *
 * Rows of a partition of the job table, by position.
 *
 * Problem: who fetches a row through the server's index scan also prunes its
 * page as soon as that is filled beyond the fillfactor, which is where a page of
 * the ring is after the first claim.  Each time costs a WAL record, and room
 * that is there for the versions of a row's life is made anew for nobody.
 * Solution: rows are fetched from their pages here, and a page is only pruned
 * when it lacks room for the next version of a row.
 * Most rows of a lane are passed over, so a row only goes to a slot once it is
 * wanted.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/procarray.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "compat.h"
#include "jobscan.h"

/* By so much a row may grow when it is claimed or completed, without its result. */
#define GROWS_BY		64

/* Begins a scan of the rows from one position on, up to another one. */
void
jobstate_job_scan_begin(JobstateJobScan *scan, JobstateJobPart *part,
						Snapshot snapshot, int64 from, int64 end)
{
	ScanKeyData key[2];

	if (scan->part != part)
	{
		jobstate_job_scan_end(scan);
		memset(scan, 0, sizeof(*scan));
		scan->part = part;
		scan->index = jobstate_index_beginscan(part->rel, jobstate_job_index(part),
											   snapshot, 2);
	}
	scan->snapshot = scan->index->xs_snapshot = snapshot;
	ScanKeyInit(&key[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
	ScanKeyInit(&key[1], 1, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(end));
	index_rescan(scan->index, key, 2, NULL, 0);
}

/* Looks for the row that the snapshot sees among the versions on the current page. */
static bool
find_version(JobstateJobScan *scan, bool *all_dead)
{
	ItemPointerData tid = scan->root;
	bool		found;

	LockBuffer(scan->buffer, BUFFER_LOCK_SHARE);
	found = heap_hot_search_buffer(&tid, scan->part->rel, scan->buffer, scan->snapshot,
								   &scan->row, all_dead, true);
	if (found)
	{
		scan->infomask = scan->row.t_data->t_infomask;
		scan->xmax = HeapTupleHeaderGetRawXmax(scan->row.t_data);
	}
	LockBuffer(scan->buffer, BUFFER_LOCK_UNLOCK);
	return found;
}

/* Steps to the next row that the snapshot sees.  False: there is none. */
bool
jobstate_job_scan_next(JobstateJobScan *scan)
{
	ItemPointer tid;

	if (scan->slot != NULL)
		ExecClearTuple(scan->slot);
	while ((tid = index_getnext_tid(scan->index, ForwardScanDirection)) != NULL)
	{
		bool		all_dead;

		scan->root = *tid;
		scan->buffer = ReleaseAndReadBuffer(scan->buffer, scan->part->rel,
											ItemPointerGetBlockNumber(tid));
		if (find_version(scan, &all_dead))
		{
			pgstat_count_heap_fetch(scan->index->indexRelation);
			return true;
		}
		scan->index->kill_prior_tuple = all_dead;
	}
	return false;
}

/*
 * Before the current row is written, and before it is in a slot: makes room for
 * its next version.
 */
void
jobstate_job_scan_make_room(JobstateJobScan *scan)
{
	bool		all_dead;

	Assert(scan->slot == NULL || TTS_EMPTY(scan->slot));
	if (PageGetHeapFreeSpace(BufferGetPage(scan->buffer)) >= scan->row.t_len + GROWS_BY)
		return;
	heap_page_prune_opt(scan->part->rel, scan->buffer);
	if (!find_version(scan, &all_dead))		/* it may lie elsewhere on its page */
		elog(ERROR, "row of \"%s\" is lost", RelationGetRelationName(scan->part->rel));
}

/* A column of the current row, valid until the next step */
Datum
jobstate_job_scan_value(JobstateJobScan *scan, JobColumn column, bool *isnull)
{
	return heap_getattr(&scan->row, scan->part->attno[column],
						RelationGetDescr(scan->part->rel), isnull);
}

/*
 * Has somebody else written a newer version of the current row, or is about to?
 * To ask is cheaper than to try: nobody's page is locked for it.
 */
bool
jobstate_job_scan_held(JobstateJobScan *scan)
{
	if ((scan->infomask & (HEAP_XMAX_INVALID | HEAP_XMAX_IS_MULTI)) ||
		HEAP_XMAX_IS_LOCKED_ONLY(scan->infomask) ||
		TransactionIdIsCurrentTransactionId(scan->xmax))
		return false;
	if (scan->xmax == scan->holder)
		return true;
	if (!TransactionIdIsInProgress(scan->xmax) && !TransactionIdDidCommit(scan->xmax))
		return false;
	scan->holder = scan->xmax;
	return true;
}

/* The current row, in a slot that is the scan's until its next step */
TupleTableSlot *
jobstate_job_scan_slot(JobstateJobScan *scan)
{
	if (scan->slot == NULL)
		scan->slot = table_slot_create(scan->part->rel, NULL);
	if (TTS_EMPTY(scan->slot))
		ExecStoreBufferHeapTuple(&scan->row, scan->slot, scan->buffer);
	return scan->slot;
}

void
jobstate_job_scan_end(JobstateJobScan *scan)
{
	if (scan->part == NULL)
		return;
	index_endscan(scan->index);
	if (scan->slot != NULL)
		ExecDropSingleTupleTableSlot(scan->slot);
	if (BufferIsValid(scan->buffer))
		ReleaseBuffer(scan->buffer);
	scan->part = NULL;
}
