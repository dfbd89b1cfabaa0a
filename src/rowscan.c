/*
 * src/rowscan.c
 *
 * The rows of a table that have a key, as a snapshot sees them.
 *
 * Reads take no predicate locks: what is read here decides what is written to
 * the same rows under a row lock, which orders it, so a serializable
 * transaction must not fail for it.  Scans therefore go with SnapshotAny, and
 * test each row against the snapshot.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/transam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "rowscan.h"

/* Equality with the key, by the operators that the index is made of */
static void
make_scan_keys(JobstateRowScan *scan)
{
	int			i;

	for (i = 0; i < scan->spec->ncolumns; i++)
	{
		Oid			family = scan->index->rd_opfamily[i];
		Oid			type = scan->index->rd_opcintype[i];
		Oid			operator = get_opfamily_member(family, type, type,
												   BTEqualStrategyNumber);

		if (!OidIsValid(operator))
			elog(ERROR, "operator family %u has no equality of type %u", family, type);
		ScanKeyInit(&scan->scankey[i], i + 1, BTEqualStrategyNumber,
					get_opcode(operator), scan->key->value[i]);
		scan->scankey[i].sk_collation = scan->index->rd_indcollation[i];
	}
}

/*
 * Begins a scan for the rows that have this key in these columns, which are the
 * index's first, in its order.  Without an index each row is looked at.  It may
 * be asked for those who are about to make a row with this key come or go.
 */
JobstateRowScan *
jobstate_row_scan_begin(Relation rel, Oid index, JobstateKeySpec *spec,
						JobstateKeyValues *key, AttrNumber *attno, Snapshot snapshot,
						bool asks_in_flight)
{
	JobstateRowScan *scan = palloc0(sizeof(JobstateRowScan));

	scan->rel = rel;
	scan->slot = table_slot_create(rel, NULL);
	scan->spec = spec;
	scan->key = key;
	scan->attno = attno;
	scan->snapshot = snapshot;
	scan->asks_in_flight = asks_in_flight;
	if (!OidIsValid(index))
	{
		scan->table_scan = table_beginscan(rel, SnapshotAny, 0, NULL);
		return scan;
	}
	scan->index = index_open(index, AccessShareLock);
	make_scan_keys(scan);
	scan->index_scan = jobstate_index_beginscan(rel, scan->index, SnapshotAny,
												spec->ncolumns);
	index_rescan(scan->index_scan, scan->scankey, spec->ncolumns, NULL, 0);
	return scan;
}

bool
jobstate_row_has_key(TupleTableSlot *slot, JobstateKeySpec *spec,
					 JobstateKeyValues *key, AttrNumber *attno)
{
	JobstateKeyValues found;
	int			i;

	for (i = 0; i < spec->ncolumns; i++)
		found.value[i] = slot_getattr(slot, attno[i], &found.isnull[i]);
	return jobstate_key_equal(spec, &found, key);
}

static bool
next_of_any(JobstateRowScan *scan)
{
	if (scan->index_scan != NULL)
		return index_getnext_slot(scan->index_scan, ForwardScanDirection, scan->slot);
	return table_scan_getnextslot(scan->table_scan, ForwardScanDirection, scan->slot);
}

static bool
is_in_flight(TransactionId xid)
{
	return TransactionIdIsNormal(xid) && !TransactionIdIsCurrentTransactionId(xid) &&
		TransactionIdIsInProgress(xid);
}

/* Is somebody else about to make this row come or go? */
static void
note_in_flight(JobstateRowScan *scan, bool visible)
{
	bool		should_free;
	HeapTupleHeader tuple = ExecFetchSlotHeapTuple(scan->slot, false, &should_free)->t_data;
	TransactionId xid = InvalidTransactionId;

	if (!visible)
		xid = HeapTupleHeaderGetXmin(tuple);
	else if ((tuple->t_infomask & HEAP_XMAX_INVALID) == 0 &&
			 !HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_infomask))
		xid = HeapTupleHeaderGetUpdateXid(tuple);
	if (is_in_flight(xid))
		scan->in_flight = xid;
}

/* Goes to the next row; false where there is none. */
bool
jobstate_row_scan_next(JobstateRowScan *scan)
{
	while (next_of_any(scan))
	{
		bool		visible;

		CHECK_FOR_INTERRUPTS();
		if (scan->index == NULL &&
			!jobstate_row_has_key(scan->slot, scan->spec, scan->key, scan->attno))
			continue;
		visible = table_tuple_satisfies_snapshot(scan->rel, scan->slot, scan->snapshot);
		if (scan->asks_in_flight)
			note_in_flight(scan, visible);
		if (visible)
			return true;
	}
	return false;
}

void
jobstate_row_scan_end(JobstateRowScan *scan)
{
	if (scan->index_scan != NULL)
		index_endscan(scan->index_scan);
	if (scan->index != NULL)
		index_close(scan->index, NoLock);
	if (scan->table_scan != NULL)
		table_endscan(scan->table_scan);
	ExecDropSingleTupleTableSlot(scan->slot);
	pfree(scan);
}
