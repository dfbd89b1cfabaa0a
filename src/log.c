/*
 * src/log.c
 *
 * The counter log and its base: tables of one shape, only ever appended to and
 * truncated.
 *
 * Invariants:
 * - A row is never updated or deleted, so visibility is only a question of who
 *   inserted it.
 * - Whoever appends to a segment holds ROW EXCLUSIVE on it until its
 *   transaction ends, so who gets ACCESS EXCLUSIVE finds only finished rows.
 * - Reads take no predicate locks: a serializable reader of counts must not
 *   make writers fail.  So they walk the pages themselves, or scan the index
 *   with SnapshotAny, and test each row against the snapshot.
 * - The log is about this database's rows: nothing of it is decoded for logical
 *   replication, whose subscribers count the rows that they apply.
 * - Nothing becomes free in between, so the free space map is passed over:
 *   each backend fills pages of its own, and where many extend a segment at a
 *   time it does not grow by more than they need.
 * - No column is null or toasted (see the install script), so a row is one
 *   flat struct.  Short values have a header of one byte.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/index.h"
#include "commands/defrem.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "log.h"

#define LOG_COLUMNS		4
#define BATCH			256

/* The columns of a stored row up to the first of variable length */
typedef struct LogForm
{
	int64		epoch;
	int32		key_hash;
	char		group_key[FLEXIBLE_ARRAY_MEMBER];
} LogForm;

/* Where backends begin to append; see jobstate_log_append() */
#define HOMES	2

/* Where the next value begins: long ones are aligned, after zeros. */
static char *
next_value(char *at)
{
	return VARATT_NOT_PAD_BYTE(at) ? at : (char *) INTALIGN((uintptr_t) at);
}

static void
row_from_tuple(HeapTupleHeader tuple, JobstateLogRow *row)
{
	LogForm    *form = (LogForm *) ((char *) tuple + tuple->t_hoff);

	row->epoch = form->epoch;
	row->hash = (uint32) form->key_hash;
	row->key = (text *) form->group_key;
	row->deltas = (text *) next_value(form->group_key + VARSIZE_ANY(row->key));
	row->own = (row->epoch == JOBSTATE_EPOCH_HEADER || jobstate_log_is_marker(row)) &&
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple));
}

/* Appends a value to a row, with zeros before it where it must be aligned. */
static char *
store_value(char *at, text *value)
{
	Size		size = VARSIZE_ANY(value);

	if (!VARATT_IS_1B(value))
		at = (char *) INTALIGN((uintptr_t) at);
	memcpy(at, value, size);
	return at + size;
}

/* What heap_form_tuple() would make, for a fifth of the instructions. */
static HeapTuple
tuple_from_row(JobstateLogRow *row)
{
	Size		header = MAXALIGN(SizeofHeapTupleHeader);
	Size		room = header + offsetof(LogForm, group_key) +
		VARSIZE_ANY(row->key) + VARSIZE_ANY(row->deltas) + ALIGNOF_INT + ALIGNOF_INT;
	HeapTuple	tuple = palloc0(HEAPTUPLESIZE + room);
	LogForm    *form;
	char	   *end;

	tuple->t_data = (HeapTupleHeader) ((char *) tuple + HEAPTUPLESIZE);
	tuple->t_data->t_hoff = header;
	tuple->t_data->t_infomask = HEAP_HASVARWIDTH;
	HeapTupleHeaderSetNatts(tuple->t_data, LOG_COLUMNS);
	ItemPointerSetInvalid(&tuple->t_data->t_ctid);
	ItemPointerSetInvalid(&tuple->t_self);

	form = (LogForm *) ((char *) tuple->t_data + header);
	form->epoch = row->epoch;
	form->key_hash = (int32) row->hash;
	end = store_value(store_value(form->group_key, row->key), row->deltas);
	tuple->t_len = end - (char *) tuple->t_data;
	return tuple;
}

/* The marker of an epoch. */
JobstateLogRow
jobstate_log_marker(int64 epoch)
{
	JobstateLogRow row = {epoch};

	row.key = row.deltas = cstring_to_text("");
	return row;
}

/* Many rows at a time: fewer WAL records and page locks than one by one. */
static ItemPointerData
insert_batch(Relation rel, JobstateLogRow *row, int n)
{
	TupleTableSlot *slot[BATCH];
	ItemPointerData last;
	int			i;

	for (i = 0; i < n; i++)
	{
		slot[i] = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
		ExecStoreHeapTuple(tuple_from_row(&row[i]), slot[i], true);
	}
	table_multi_insert(rel, slot, n, GetCurrentCommandId(true),
					   TABLE_INSERT_SKIP_FSM, NULL);
	last = slot[n - 1]->tts_tid;
	for (i = 0; i < n; i++)
		ExecDropSingleTupleTableSlot(slot[i]);
	return last;
}

static ItemPointerData
insert_row(Relation rel, JobstateLogRow *row)
{
	HeapTuple	tuple = tuple_from_row(row);
	ItemPointerData tid;

	heap_insert(rel, tuple, GetCurrentCommandId(true),
				HEAP_INSERT_NO_LOGICAL | HEAP_INSERT_SKIP_FSM, NULL);
	tid = tuple->t_self;
	heap_freetuple(tuple);
	return tid;
}

/*
 * Returns where the last row went.  A batch would be decoded whatever it is
 * told, so at wal_level = logical the rows go one by one.
 */
static ItemPointerData
insert_rows(Relation rel, JobstateLogRow *row, int n)
{
	int			step = RelationIsLogicallyLogged(rel) ? 1 : BATCH;
	ItemPointerData last;
	int			i;

	ItemPointerSetInvalid(&last);
	for (i = 0; i < n; i += step)
	{
		int			rows = Min(step, n - i);

		CHECK_FOR_INTERRUPTS();
		last = rows == 1 ? insert_row(rel, row + i) : insert_batch(rel, row + i, rows);
	}
	return last;
}

/* The same, for a table with the index on (epoch, key_hash). */
static void
insert_rows_and_keys(Relation rel, JobstateLogRow *row, int n)
{
	Relation	index = index_open(linitial_oid(RelationGetIndexList(rel)),
								   RowExclusiveLock);
	IndexInfo  *info = BuildIndexInfo(index);
	int			i;

	for (i = 0; i < n; i++)
	{
		HeapTuple	tuple = tuple_from_row(&row[i]);
		Datum		values[2];
		bool		nulls[2] = {false};

		CHECK_FOR_INTERRUPTS();
		heap_insert(rel, tuple, GetCurrentCommandId(true), HEAP_INSERT_NO_LOGICAL,
					NULL);
		values[0] = Int64GetDatum(row[i].epoch);
		values[1] = Int32GetDatum((int32) row[i].hash);
		index_insert(index, values, nulls, &tuple->t_self, rel,
					 UNIQUE_CHECK_NO, false, info);
		heap_freetuple(tuple);
	}
	index_close(index, NoLock);
}

/* Appends to a table of the base, which the caller has locked. */
void
jobstate_log_insert(Relation rel, JobstateLogRow *row, int n, bool with_index)
{
	if (with_index)
		insert_rows_and_keys(rel, row, n);
	else if (n > 0)
		(void) insert_rows(rel, row, n);
}

/*
 * Empties a table, on which the caller holds ACCESS EXCLUSIVE.  This is what
 * TRUNCATE does, without the record by which a subscriber would follow it.
 */
void
jobstate_log_empty(Oid relid)
{
	ReindexParams params = {0};
	Relation	rel = table_open(relid, NoLock);

	CheckTableNotInUse(rel, "fold");
	jobstate_new_file(rel);
	table_close(rel, NoLock);
	jobstate_reindex(relid, &params);
}

/*
 * Locks a segment for appending, without waiting: the fold never holds all of
 * them.  Only where somebody else has locked every segment by hand is there
 * nothing left but to wait.
 */
static Oid
lock_segment(int *current)
{
	Oid			segment[JOBSTATE_SEGMENTS];
	int			i;

	/* accepting invalidations may replace the catalogue */
	memcpy(segment, jobstate_catalog()->segment, sizeof(segment));
	for (i = 0; i < JOBSTATE_SEGMENTS; i++)
	{
		int			n = (*current + i) % JOBSTATE_SEGMENTS;

		if (ConditionalLockRelationOid(segment[n], RowExclusiveLock))
		{
			*current = n;
			return segment[n];
		}
	}
	LockRelationOid(segment[*current], RowExclusiveLock);
	return segment[*current];
}

/* A row that says when a page of a full segment was begun.  A fold drops it. */
static void
note_full(Relation rel)
{
	JobstateLogRow row = {JOBSTATE_EPOCH_FULL};

	row.key = cstring_to_text(psprintf(INT64_FORMAT, GetCurrentTimestamp()));
	row.deltas = cstring_to_text("0:1");
	(void) insert_row(rel, &row);
}

/*
 * Appends to a segment, n > 0 rows.  Whoever finds it full goes on in the next
 * one, so that the fold soon finds the full one free.  Returns whether to ask
 * for a fold: one backend does, the one that began a page.  Few homes rather
 * than many: what is spread thin over all segments costs every reader, and
 * makes the fold truncate more often for the same number of rows.
 */
bool
jobstate_log_append(JobstateLogRow *row, int n)
{
	static int	current = -1;
	ItemPointerData last;
	Relation	rel;
	bool		is_full;
	bool		began;

	if (current < 0)
		current = jobstate_backend_number() % HOMES;
	rel = table_open(lock_segment(&current), NoLock);
	JOBSTATE_INSTANT("append-locked");
	last = insert_rows(rel, row, n);
	is_full = ItemPointerGetBlockNumber(&last) >= JOBSTATE_SEGMENT_FULL;
	began = is_full && ItemPointerGetOffsetNumber(&last) <= n;
	if (began)
		note_full(rel);
	table_close(rel, NoLock);
	if (is_full)
		current = (current + 1) % JOBSTATE_SEGMENTS;
	return began;
}

/* Is this row of the epoch, or a header?  Cheaper to ask than visibility. */
static bool
is_of_epoch(HeapTupleHeader tuple, int64 epoch)
{
	int64		found = ((LogForm *) ((char *) tuple + tuple->t_hoff))->epoch;

	return found == epoch || found == JOBSTATE_EPOCH_HEADER;
}

static void
scan_page(Relation rel, Buffer buffer, BlockNumber block, const int64 *epoch,
		  Snapshot snapshot, Snapshot newest, JobstateLogVisitor visit, void *arg)
{
	Page		page = BufferGetPage(buffer);
	OffsetNumber max = PageGetMaxOffsetNumber(page);
	OffsetNumber offset;

	for (offset = FirstOffsetNumber; offset <= max; offset++)
	{
		ItemId		item = PageGetItemId(page, offset);
		HeapTupleData tuple;
		JobstateLogRow row;
		bool		visible;

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		if (epoch != NULL && !is_of_epoch(tuple.t_data, *epoch))
			continue;
		tuple.t_len = ItemIdGetLength(item);
		tuple.t_tableOid = RelationGetRelid(rel);
		ItemPointerSet(&tuple.t_self, block, offset);
		visible = HeapTupleSatisfiesVisibility(&tuple, snapshot, buffer);
		if (!visible &&
			(newest == NULL || !HeapTupleSatisfiesVisibility(&tuple, newest, buffer)))
			continue;
		row_from_tuple(tuple.t_data, &row);
		visit(&row, visible, arg);
	}
}

/*
 * Visits the rows that the snapshot sees and, told as not visible, those that
 * only the newest one sees; where an epoch is given, only its rows and
 * headers.  The visitor runs under a buffer lock: it only adds up.
 */
void
jobstate_log_scan(Relation rel, const int64 *epoch, Snapshot snapshot,
				  Snapshot newest, JobstateLogVisitor visit, void *arg)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
	BlockNumber block;

	for (block = 0; block < nblocks; block++)
	{
		Buffer		buffer = ReadBuffer(rel, block);

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		scan_page(rel, buffer, block, epoch, snapshot, newest, visit, arg);
		UnlockReleaseBuffer(buffer);
	}
}

static void
visit_full(JobstateLogRow *row, bool visible, void *arg)
{
	TimestampTz *first = arg;
	char	   *key = text_to_cstring(row->key);

	if (row->epoch == JOBSTATE_EPOCH_FULL)
		*first = Min(*first, strtoi64(key, NULL, 10));
	pfree(key);
}

/*
 * Since when a segment is full, whatever became of those who wrote; DT_NOEND: it
 * is not, or nobody noted it.  The caller has locked it.
 */
TimestampTz
jobstate_log_full_since(Relation rel)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
	BlockNumber block;
	int64		epoch = JOBSTATE_EPOCH_FULL;
	TimestampTz first = DT_NOEND;

	for (block = JOBSTATE_SEGMENT_FULL; block < nblocks && first == DT_NOEND; block++)
	{
		Buffer		buffer = ReadBuffer(rel, block);

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		scan_page(rel, buffer, block, &epoch, SnapshotAny, NULL, visit_full, &first);
		UnlockReleaseBuffer(buffer);
	}
	return first;
}

static int
make_keys(ScanKey key, const int64 *epoch, const uint32 *hash)
{
	int			n = 0;

	if (epoch != NULL)
		ScanKeyInit(&key[n++], 1, BTEqualStrategyNumber, F_INT8EQ,
					Int64GetDatum(*epoch));
	if (hash != NULL)
		ScanKeyInit(&key[n++], 2, BTEqualStrategyNumber, F_INT4EQ,
					Int32GetDatum((int32) *hash));
	return n;
}

/*
 * Visits the visible rows of one epoch, or of one hash in it, or all, in the
 * order of (epoch, hash).
 */
void
jobstate_log_scan_key(Relation rel, Relation index, const int64 *epoch,
					  const uint32 *hash, Snapshot snapshot,
					  JobstateLogVisitor visit, void *arg)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	ScanKeyData key[2];
	int			nkeys = make_keys(key, epoch, hash);
	IndexScanDesc scan = jobstate_index_beginscan(rel, index, SnapshotAny, nkeys);

	index_rescan(scan, key, nkeys, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		JobstateLogRow row;
		bool		should_free;

		CHECK_FOR_INTERRUPTS();
		if (!table_tuple_satisfies_snapshot(rel, slot, snapshot))
			continue;
		row_from_tuple(ExecFetchSlotHeapTuple(slot, false, &should_free)->t_data,
					   &row);
		visit(&row, true, arg);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}
