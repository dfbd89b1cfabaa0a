/*
 * src/newparent.c
 *
 * Parents that come after their children, where no foreign key forbids it.
 *
 * Problem: one transaction changes a child and finds no parent to lock; another
 * inserts that parent and finds no child.  Both commit, and the parent is
 * wrong.
 * Solution: both lock the key before they look, until they commit, so the
 * second of them sees what the first did.  A key has one of a few locks of its
 * table, so that a million new parents take no more.
 * Non-problems: transactions that both have new parents, or both found none.
 * Their locks do not conflict, and neither does one with the rows of parents
 * that were there before.
 * Non-problems: deadlocks, because these locks are taken in their order, and
 * before any row of the same table is locked.  Only a parent that goes while we
 * look is locked out of order.
 */
#include "postgres.h"

#include "access/table.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "attach.h"
#include "children.h"
#include "error.h"
#include "newparent.h"
#include "rowscan.h"

#define KEY_LOCKS	128

/* What a transaction wants of a key lock; both together are a wish, too. */
#define HAS_NEW_PARENT	1
#define FOUND_NO_PARENT	2

/* Returns false if the lock was held already. */
static bool
lock_keys(Oid relid, int number, int wish)
{
	LOCKMODE	mode = wish == HAS_NEW_PARENT ? RowExclusiveLock :
		wish == FOUND_NO_PARENT ? ShareLock : ShareRowExclusiveLock;
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, relid, number, 0);
	return LockAcquire(&tag, mode, false, false) != LOCKACQUIRE_ALREADY_HELD;
}

static bool
is_in_table(Oid relid, JobstateTouched *touched, Snapshot snapshot)
{
	Relation	rel = table_open(relid, RowExclusiveLock);
	JobstateWatched *watched = jobstate_watched(relid);
	JobstateRowScan *scan;
	bool		found;

	if (watched == NULL)
		jobstate_error_not_attached(relid);
	scan = jobstate_row_scan_begin(rel, jobstate_primary_key(rel),
								   touched->parent->row_key, &touched->key,
								   watched->row_attno, snapshot);
	found = jobstate_row_scan_next(scan);
	jobstate_row_scan_end(scan);
	table_close(rel, NoLock);
	return found;
}

/* Is the parent there? */
static bool
is_there(JobstateTouched *touched)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found = false;
	ListCell   *cell;

	foreach(cell, jobstate_tables_of(touched->parent->target, RowExclusiveLock))
		found = found || is_in_table(lfirst_oid(cell), touched, snapshot);
	UnregisterSnapshot(snapshot);
	return found;
}

/*
 * Takes the key locks for a batch of one table's parents, of which no row has
 * been locked yet.  A single one is not looked for here: if it turns out to be
 * missing there is nothing that its lock could be out of order with.
 */
void
jobstate_new_parents_lock(JobstateTouched *touched, int n)
{
	uint8		wish[KEY_LOCKS] = {0};
	int			i;

	if (n == 0 || !jobstate_children_may_precede(touched[0].parent))
		return;
	for (i = 0; i < n; i++)
		if (touched[i].is_new)
			wish[touched[i].hash % KEY_LOCKS] |= HAS_NEW_PARENT;
		else if (n > 1 && !is_there(&touched[i]))
			wish[touched[i].hash % KEY_LOCKS] |= FOUND_NO_PARENT;
	for (i = 0; i < KEY_LOCKS; i++)
		if (wish[i] != 0)
			(void) lock_keys(touched[0].parent->target, i, wish[i]);
}

/*
 * The parent was not found.  Returns true if it is to be looked for again,
 * because one that was about to come may be there now.
 */
bool
jobstate_new_parent_missing(JobstateTouched *touched)
{
	return jobstate_children_may_precede(touched->parent) &&
		lock_keys(touched->parent->target, touched->hash % KEY_LOCKS, FOUND_NO_PARENT);
}
