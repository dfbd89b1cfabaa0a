/*
 * src/attachmentrow.c
 *
 * The rows of jobstate.attachment, read and written without SQL: under the
 * newest snapshot, whatever the transaction's own is.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "attachmentrow.h"
#include "catalog.h"
#include "error.h"

/* jobstate.attachment, as the install script makes it */
enum
{
	Anum_attachment_target = 1,
	Anum_attachment_machine,
	Anum_attachment_state_column,
	Anum_attachment_group_by,
	Anum_attachment_epoch
};

/* A scan of the catalogue for one table. */
static SysScanDesc
scan_for(Relation rel, Oid target)
{
	ScanKeyData key;

	ScanKeyInit(&key, Anum_attachment_target, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(target));
	return systable_beginscan(rel, jobstate_catalog()->attachment_pkey, true,
							  NULL, 1, &key);
}

/* Reads the row of exactly this table, if there is one. */
bool
jobstate_attachment_row(Oid target, JobstateAttachmentRow *row)
{
	Relation	rel = table_open(jobstate_catalog()->attachment, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	SysScanDesc scan = scan_for(rel, target);
	HeapTuple	tuple = systable_getnext(scan);
	bool		found = HeapTupleIsValid(tuple);
	Datum		column;
	bool		isnull;

	if (found)
	{
		row->machine = TextDatumGetCString(heap_getattr(tuple, Anum_attachment_machine, desc, &isnull));
		column = heap_getattr(tuple, Anum_attachment_state_column, desc, &isnull);
		Assert(!isnull);
		row->state_column = *DatumGetName(column);
		row->group_by = DatumGetArrayTypePCopy(heap_getattr(tuple, Anum_attachment_group_by, desc, &isnull));
		row->epoch = DatumGetInt64(heap_getattr(tuple, Anum_attachment_epoch, desc, &isnull));
		row->own_write = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* The epochs of all attachments that the snapshot sees. */
int64 *
jobstate_attachment_epochs(Snapshot snapshot, int *n)
{
	Relation	rel = table_open(jobstate_catalog()->attachment, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	int			max = 64;
	int64	   *epoch = palloc(sizeof(int64) * max);
	HeapTuple	tuple;
	bool		isnull;

	*n = 0;
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (*n == max)
			epoch = repalloc(epoch, sizeof(int64) * (max *= 2));
		epoch[(*n)++] = DatumGetInt64(heap_getattr(tuple, Anum_attachment_epoch,
												   RelationGetDescr(rel), &isnull));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return epoch;
}

/* All attached tables. */
List *
jobstate_attachment_targets(void)
{
	Relation	rel = table_open(jobstate_catalog()->attachment, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	List	   *targets = NIL;
	HeapTuple	tuple;
	bool		isnull;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		targets = lappend_oid(targets,
							  DatumGetObjectId(heap_getattr(tuple, Anum_attachment_target,
															RelationGetDescr(rel), &isnull)));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return targets;
}

/*
 * Epochs are random, so that one that comes with a dump is never taken for one
 * that this database's log knows.
 */
int64
jobstate_attachment_new_epoch(void)
{
	int64		epoch;

	do
	{
		if (!pg_strong_random(&epoch, sizeof(epoch)))
			elog(ERROR, "could not make a random epoch");
		epoch &= PG_INT64_MAX;
	} while (epoch == 0);
	return epoch;
}

/*
 * Gives the table a new epoch and returns it: what was counted before belongs
 * to nobody from here on.  The caller holds a lock on the table that keeps
 * others from doing the same.
 */
int64
jobstate_attachment_set_epoch(Oid target)
{
	int64		epoch = jobstate_attachment_new_epoch();
	Relation	rel = table_open(jobstate_catalog()->attachment, RowExclusiveLock);
	SysScanDesc scan = scan_for(rel, target);
	HeapTuple	tuple = systable_getnext(scan);
	Datum		values[Anum_attachment_epoch] = {0};
	bool		nulls[Anum_attachment_epoch] = {false};
	bool		replace[Anum_attachment_epoch] = {false};

	if (!HeapTupleIsValid(tuple))
		jobstate_error_not_attached(target);
	values[Anum_attachment_epoch - 1] = Int64GetDatum(epoch);
	replace[Anum_attachment_epoch - 1] = true;
	tuple = heap_modify_tuple(tuple, RelationGetDescr(rel), values, nulls, replace);
	CatalogTupleUpdate(rel, &tuple->t_self, tuple);
	systable_endscan(scan);
	table_close(rel, NoLock);
	jobstate_catalog_changed();
	CommandCounterIncrement();
	return epoch;
}

/*
 * Is there an attachment, and the table and all columns that it names?  For
 * those who look at all tables and must not stumble over one.
 */
bool
jobstate_attachment_is_sound(Oid target)
{
	JobstateAttachmentRow row;
	Datum	   *names;
	bool		sound;
	int			n;

	if (!jobstate_attachment_row(target, &row))
		return false;
	sound = get_attnum(target, NameStr(row.state_column)) > 0;
	deconstruct_array(row.group_by, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR,
					  &names, NULL, &n);
	while (n-- > 0)
		sound &= get_attnum(target, NameStr(*DatumGetName(names[n]))) > 0;
	return sound;
}
