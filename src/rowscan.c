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

#include "access/relscan.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
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
 * index's first, in its order.  Without an index each row is looked at.
 */
JobstateRowScan *
jobstate_row_scan_begin(Relation rel, Oid index, JobstateKeySpec *spec,
						JobstateKeyValues *key, AttrNumber *attno, Snapshot snapshot)
{
	JobstateRowScan *scan = palloc0(sizeof(JobstateRowScan));

	scan->rel = rel;
	scan->slot = table_slot_create(rel, NULL);
	scan->spec = spec;
	scan->key = key;
	scan->attno = attno;
	scan->snapshot = snapshot;
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

/* The table, or the partitions of it, where rows lie; locked if they are several */
List *
jobstate_tables_of(Oid relid, LOCKMODE lockmode)
{
	List	   *tables = NIL;
	ListCell   *cell;

	if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
		return list_make1_oid(relid);
	foreach(cell, find_all_inheritors(relid, lockmode, NULL))
		if (get_rel_relkind(lfirst_oid(cell)) == RELKIND_RELATION)
			tables = lappend_oid(tables, lfirst_oid(cell));
	return tables;
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

/* Goes to the next row; false where there is none. */
bool
jobstate_row_scan_next(JobstateRowScan *scan)
{
	while (next_of_any(scan))
	{
		CHECK_FOR_INTERRUPTS();
		if ((scan->index != NULL ||
			 jobstate_row_has_key(scan->slot, scan->spec, scan->key, scan->attno)) &&
			table_tuple_satisfies_snapshot(scan->rel, scan->slot, scan->snapshot))
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
