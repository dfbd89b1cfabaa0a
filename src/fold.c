/*
 * src/fold.c
 *
 * From the counter log to the counter base.
 *
 * Every table here only grows until it is truncated; there is no UPDATE and no
 * DELETE, so a snapshot held elsewhere leaves no dead rows behind.  All rows
 * are deltas: a key's count is the sum over all of them, wherever they are.
 *
 *   segment_n       the log; folded by key into
 *   base_recent     small enough to be read whole; rewritten in place, or when
 *                   it has too many keys for that, moved to
 *   base_settled_n  large, with an index; rewritten into its twin when it has
 *                   doubled.  Keys that are zero, and epochs that no
 *                   attachment has any more, leave on the way.
 *
 * Every change to what a reader may find where leaves a header row in
 * base_recent, by which a reader knows that its snapshot is too old (see
 * counts.c).
 *
 * Locks: SHARE UPDATE EXCLUSIVE on base_recent elects the one that folds.
 * ACCESS EXCLUSIVE is only taken where it is free, except on the settled table
 * that is left after a rewrite: readers hold that for the length of one call,
 * and by then this transaction holds nothing that a reader waits for.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "attachmentrow.h"
#include "catalog.h"
#include "compat.h"
#include "fold.h"
#include "recount.h"
#include "sums.h"

PG_FUNCTION_INFO_V1(jobstate_fold_all);

/* base_recent is rewritten above this size, and moved on above half of it */
#define RECENT_FULL		((BlockNumber) 16)
#define ROWS_PER_BLOCK	150

/* A settled table below this size is not worth a rewrite */
#define SETTLED_SMALL	((BlockNumber) 64)

/* Rows of a rewrite that are in memory at a time */
#define REWRITE_BATCH	1000

/* At most so many segments at a time: writers need the others */
#define MAX_SEGMENTS	(JOBSTATE_SEGMENTS - 2)

typedef struct Fold
{
	JobstateCatalog catalog;
	Snapshot	registered;
	SnapshotData snapshot;		/* the newest, seeing all own rows */
	JobstateSums *sums;
	int64		rows;
} Fold;

static void
begin_fold(Fold *fold)
{
	fold->catalog = *jobstate_catalog();
	fold->sums = jobstate_sums_create(CurrentMemoryContext);
	fold->rows = 0;
}

/* Only after the locks are held does the snapshot see all that is finished. */
static void
take_snapshot(Fold *fold)
{
	fold->registered = RegisterSnapshot(GetLatestSnapshot());
	fold->snapshot = *fold->registered;
	fold->snapshot.curcid = InvalidCommandId;
}

static void
visit_log(JobstateLogRow *row, bool visible, void *arg)
{
	Fold	   *fold = arg;

	fold->rows++;
	if (row->epoch != JOBSTATE_EPOCH_HEADER)
		jobstate_sums_add_row(fold->sums, row);
}

static void
add_table(Fold *fold, Oid relid)
{
	Relation	rel = table_open(relid, NoLock);

	jobstate_log_scan(rel, NULL, &fold->snapshot, NULL, visit_log, fold);
	table_close(rel, NoLock);
}

static BlockNumber
size_of(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);

	table_close(rel, AccessShareLock);
	return blocks;
}

static bool
is_worth(Oid segment, BlockNumber worth)
{
	BlockNumber blocks;

	if (!ConditionalLockRelationOid(segment, AccessShareLock))
		return false;
	blocks = size_of(segment);
	UnlockRelationOid(segment, AccessShareLock);
	return blocks >= worth;
}

/* Does this transaction keep readers from this table already? */
static bool
is_ours(Oid relid)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	return jobstate_holds_lock(&tag, AccessExclusiveLock);
}

/* How many segments earlier folds of this transaction have locked */
static int
count_ours(Fold *fold)
{
	int			n = 0;
	int			i;

	for (i = 0; i < JOBSTATE_SEGMENTS; i++)
		n += is_ours(fold->catalog.segment[i]);
	return n;
}

/* Locks the segments that are worth it and free.  Returns how many. */
static int
lock_segments(Fold *fold, BlockNumber worth, Oid *locked, int *missed)
{
	int			ours = count_ours(fold);
	int			n = 0;
	int			i;

	*missed = 0;
	for (i = 0; i < JOBSTATE_SEGMENTS; i++)
	{
		Oid			segment = fold->catalog.segment[i];

		if (!is_worth(segment, worth))
			continue;
		if ((ours + n < MAX_SEGMENTS || is_ours(segment)) &&
			ConditionalLockRelationOid(segment, AccessExclusiveLock))
			locked[n++] = segment;
		else
			(*missed)++;
	}
	return n;
}

static int
compare_epochs(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return (x > y) - (x < y);
}

/* What is left of the sums, as rows. */
static int
sums_to_rows(Fold *fold, JobstateLogRow **rows)
{
	JobstateSum **sum;
	int			nsums = jobstate_sums_list(fold->sums, &sum);
	int			nepochs;
	int64	   *epochs = jobstate_attachment_epochs(fold->registered, &nepochs);
	int			n = 0;
	int			i;

	qsort(epochs, nepochs, sizeof(int64), compare_epochs);
	*rows = MemoryContextAllocHuge(CurrentMemoryContext,
								   sizeof(JobstateLogRow) * (2 * nsums + 1));
	for (i = 0; i < nsums; i++)
		if (bsearch(&sum[i]->epoch, epochs, nepochs, sizeof(int64), compare_epochs))
			n += jobstate_sums_to_rows(sum[i], *rows + n);
	return n;
}

/* Its key is the time, for whoever wants to know when somebody last folded. */
static void
make_header(JobstateLogRow *row, int64 blocks)
{
	row->epoch = JOBSTATE_EPOCH_HEADER;
	row->hash = 0;
	row->key = cstring_to_text(psprintf(INT64_FORMAT, GetCurrentTimestamp()));
	row->deltas = cstring_to_text(psprintf("0:" INT64_FORMAT, blocks));
}

static void
append_to(Oid relid, JobstateLogRow *rows, int n, bool with_index)
{
	Relation	rel = table_open(relid, RowExclusiveLock);

	jobstate_log_insert(rel, rows, n, with_index);
	table_close(rel, NoLock);
}

static void
visit_header(JobstateLogRow *row, bool visible, void *arg)
{
	JobstateDeltas deltas;

	jobstate_deltas_init(&deltas, CurrentMemoryContext);
	jobstate_deltas_add_text(&deltas, row->deltas);
	*(int64 *) arg = jobstate_deltas_find(&deltas, 0)->n;
}

/*
 * Which settled table is in use, and how large was it after its last rewrite?
 * The twin is empty but for what an aborted rewrite left.
 */
static int
current_settled(Fold *fold, int64 *blocks)
{
	int64		epoch = JOBSTATE_EPOCH_HEADER;
	int			i;

	for (i = 1; i >= 0; i--)
	{
		Relation	rel = table_open(fold->catalog.settled[i], AccessShareLock);
		Relation	index = index_open(fold->catalog.settled_key[i], AccessShareLock);

		*blocks = -1;
		jobstate_log_scan_key(rel, index, &epoch, NULL, &fold->snapshot,
							  visit_header, blocks);
		index_close(index, AccessShareLock);
		table_close(rel, AccessShareLock);
		if (*blocks >= 0)
			return i;
	}
	*blocks = 0;
	return 0;
}

/* Rewrites base_recent, or empties it into the settled table. */
static void
rewrite_recent(Fold *fold)
{
	JobstateLogRow *rows;
	int64		blocks;
	int			n;

	n = sums_to_rows(fold, &rows);
	jobstate_log_empty(fold->catalog.recent);
	if (n > RECENT_FULL * ROWS_PER_BLOCK / 2)
	{
		append_to(fold->catalog.settled[current_settled(fold, &blocks)], rows, n, true);
		n = 0;
	}
	make_header(&rows[n++], 0);
	append_to(fold->catalog.recent, rows, n, false);
}

static void
append_recent(Fold *fold)
{
	JobstateLogRow *rows;
	int			n = sums_to_rows(fold, &rows);

	make_header(&rows[n++], 0);
	append_to(fold->catalog.recent, rows, n, false);
}

/* Would base_recent be too large with the sums appended? */
static bool
wants_rewrite(Fold *fold)
{
	return size_of(fold->catalog.recent) +
		jobstate_sums_count(fold->sums) / ROWS_PER_BLOCK > RECENT_FULL;
}

/*
 * One fold at a time, and nobody is waited for later: DROP EXTENSION, which
 * locks each of these tables for good, would wait for the others.
 */
static bool
lock_base(Fold *fold)
{
	return ConditionalLockRelationOid(fold->catalog.recent, ShareUpdateExclusiveLock) &&
		ConditionalLockRelationOid(fold->catalog.settled[0], AccessShareLock) &&
		ConditionalLockRelationOid(fold->catalog.settled[1], AccessShareLock) &&
		ConditionalLockRelationOid(fold->catalog.attachment, AccessShareLock) &&
		SearchSysCacheExists1(RELOID, ObjectIdGetDatum(fold->catalog.recent));
}

/*
 * Folds the segments of at least so many blocks that are free.  The locks stay
 * until the transaction ends, which should be soon: readers wait for it,
 * writers never do.
 */
JobstateFoldResult
jobstate_fold(BlockNumber worth)
{
	JobstateFoldResult result = {0};
	Fold		fold;
	Oid			locked[JOBSTATE_SEGMENTS];
	int			n;
	int			i;

	PreventCommandIfReadOnly("fold()");
	begin_fold(&fold);
	if (!lock_base(&fold))
	{
		result.busy = true;
		return result;
	}
	n = lock_segments(&fold, worth, locked, &result.missed);
	if (n == 0 && !wants_rewrite(&fold))
		return result;

	JOBSTATE_INSTANT("fold-locked");
	take_snapshot(&fold);
	for (i = 0; i < n; i++)
		add_table(&fold, locked[i]);
	result.rows = fold.rows;
	if (wants_rewrite(&fold) &&
		ConditionalLockRelationOid(fold.catalog.recent, AccessExclusiveLock))
	{
		add_table(&fold, fold.catalog.recent);
		rewrite_recent(&fold);
	}
	else if (n > 0)
		append_recent(&fold);
	JOBSTATE_INSTANT("fold-written");
	for (i = 0; i < n; i++)
		jobstate_log_empty(locked[i]);
	JOBSTATE_INSTANT("fold-end");
	UnregisterSnapshot(fold.registered);
	return result;
}

/* Rows come in the order of their keys, so some whole keys at a time will do */
typedef struct Rewrite
{
	Fold	   *fold;
	Oid			into;
	int64		epoch;			/* of the last row */
	uint32		hash;
	MemoryContext context;		/* of the rows that are being written */
} Rewrite;

static void
write_keys(Rewrite *rewrite)
{
	MemoryContext before = MemoryContextSwitchTo(rewrite->context);
	JobstateLogRow *rows;
	int			n = sums_to_rows(rewrite->fold, &rows);

	append_to(rewrite->into, rows, n, true);
	MemoryContextSwitchTo(before);
	MemoryContextReset(rewrite->context);
	jobstate_sums_reset(rewrite->fold->sums);
}

static void
visit_settled(JobstateLogRow *row, bool visible, void *arg)
{
	Rewrite    *rewrite = arg;

	if (row->epoch == JOBSTATE_EPOCH_HEADER)
		return;
	if (rewrite->fold->rows % REWRITE_BATCH == 0 &&
		(row->epoch != rewrite->epoch || row->hash != rewrite->hash))
		write_keys(rewrite);
	rewrite->epoch = row->epoch;
	rewrite->hash = row->hash;
	visit_log(row, visible, rewrite->fold);
}

/* Writes the sums of one settled table into the other. */
static void
rewrite_settled(Fold *fold, int from, int to)
{
	Rewrite		rewrite = {fold};
	Relation	rel = table_open(fold->catalog.settled[from], AccessShareLock);
	Relation	index = index_open(fold->catalog.settled_key[from], AccessShareLock);
	JobstateLogRow header;

	rewrite.into = fold->catalog.settled[to];
	rewrite.context = AllocSetContextCreate(CurrentMemoryContext,
											"jobstate rewrite",
											ALLOCSET_DEFAULT_SIZES);
	jobstate_log_scan_key(rel, index, NULL, NULL, &fold->snapshot,
						  visit_settled, &rewrite);
	write_keys(&rewrite);
	MemoryContextDelete(rewrite.context);
	index_close(index, NoLock);
	table_close(rel, NoLock);

	make_header(&header, size_of(rewrite.into));
	append_to(rewrite.into, &header, 1, true);
	append_to(fold->catalog.recent, &header, 1, false);
}

/*
 * Empties the twin of what an aborted rewrite left there.  That is all such a
 * transaction does: to wait for the other table while holding this one would
 * be a deadlock with readers, who hold the one and want the other.
 */
static bool
clear_twin(Fold *fold, Oid twin)
{
	if (!ConditionalLockRelationOid(twin, AccessExclusiveLock))
		return false;
	jobstate_log_empty(twin);
	return true;
}

static bool
settle(Fold *fold)
{
	int64		blocks;
	int			from = current_settled(fold, &blocks);
	Oid			twin = fold->catalog.settled[1 - from];

	if (size_of(fold->catalog.settled[from]) <= 2 * blocks + SETTLED_SMALL)
		return false;
	if (size_of(twin) > 0)
		return clear_twin(fold, twin);
	rewrite_settled(fold, from, 1 - from);
	JOBSTATE_INSTANT("settle-written");
	LockRelationOid(fold->catalog.settled[from], AccessExclusiveLock);
	jobstate_log_empty(fold->catalog.settled[from]);
	return true;
}

/*
 * Rewrites the settled table into its twin when it has doubled since the last
 * time.  Returns whether there was something to do; then there may be more, in
 * a transaction of its own.  After a fold in the same transaction it does
 * nothing: it would wait for readers who wait for us.
 */
bool
jobstate_settle(void)
{
	Fold		fold;
	bool		done;

	begin_fold(&fold);
	if (is_ours(fold.catalog.recent) || count_ours(&fold) > 0 || !lock_base(&fold))
		return false;
	take_snapshot(&fold);
	done = settle(&fold);
	UnregisterSnapshot(fold.registered);
	return done;
}

/* fold() returns bigint: all that is in the log now */
Datum
jobstate_fold_all(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(jobstate_fold(1).rows);
}
