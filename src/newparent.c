/*
 * src/newparent.c
 *
 * Parents that come after their children, where no foreign key forbids it.
 *
 * Problem: one transaction changes a child and finds no parent to lock; another
 * inserts that parent and finds no child.  Both commit, and the parent is
 * wrong.
 * Non-problems: that neither sees the other's row at all, because both write
 * first and look then.  So one of them meets the other at work.
 * Solution: who inserts parents looks for others at work on children, and waits
 * for their end.  When it finds none (any more) it holds a lock of its own
 * until it commits.  Who changes a child and meets a parent that is not
 * committed tries that lock: if it is free, the other is yet to look and will
 * find us; else it has looked, and we wait for its end.
 * Non-problems: deadlocks, because nobody waits while he holds this lock.
 */
#include "postgres.h"

#include "access/subtrans.h"
#include "access/transam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/memutils.h"

#include "children.h"
#include "newparent.h"

/* Of the kind of advisory locks, in a class that SQL cannot reach */
#define NEW_PARENT_LOCK_CLASS	75

/* The new parents that this transaction has looked at, and whether it holds the lock */
static List *looked_at = NIL;	/* of JobstateTouched */
static bool holds_lock = false;

static LOCKTAG
lock_of(TransactionId xid)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, xid, 0, NEW_PARENT_LOCK_CLASS);
	return tag;
}

/* Somebody who is at work on children of this parent, or 0 */
static TransactionId
in_flight(JobstateTouched *touched)
{
	TransactionId found = InvalidTransactionId;
	ListCell   *cell;

	foreach(cell, touched->parent->sources)
		if (!TransactionIdIsValid(found))
			found = jobstate_children_in_flight(lfirst(cell), touched);
	return found;
}

static TransactionId
any_in_flight(void)
{
	TransactionId found = InvalidTransactionId;
	ListCell   *cell;

	foreach(cell, looked_at)
		if (!TransactionIdIsValid(found))
			found = in_flight(lfirst(cell));
	return found;
}

static void
remember(JobstateTouched *touched)
{
	MemoryContext before = MemoryContextSwitchTo(TopTransactionContext);
	JobstateTouched *copy = palloc(sizeof(JobstateTouched));

	*copy = *touched;
	jobstate_key_copy(touched->parent->row_key, &copy->key);
	looked_at = lappend(looked_at, copy);
	MemoryContextSwitchTo(before);
}

/*
 * Sees to it that nobody is at work on the new ones' children and goes unseen.
 * Only at commit: from here on this transaction must wait for nobody's rows.
 */
void
jobstate_new_parents_settle(JobstateTouched *touched, int n)
{
	LOCKTAG		tag = lock_of(GetTopTransactionId());
	TransactionId other;
	bool		any = false;
	int			i;

	for (i = 0; i < n; i++)
		if (touched[i].is_new && jobstate_children_may_precede(touched[i].parent))
		{
			remember(&touched[i]);
			any = true;
		}
	if (!any)
		return;
	for (;;)
	{
		if (!holds_lock)
			(void) LockAcquire(&tag, ExclusiveLock, false, false);
		holds_lock = true;
		other = any_in_flight();
		if (!TransactionIdIsValid(other))
			return;
		LockRelease(&tag, ExclusiveLock, false);
		holds_lock = false;
		XactLockTableWait(other, NULL, NULL, XLTW_None);
	}
}

/*
 * We met a parent that this transaction is inserting.  Waits for its end and
 * returns true, unless it is yet to look for us.
 */
bool
jobstate_new_parent_await(TransactionId xid)
{
	LOCKTAG		tag = lock_of(SubTransGetTopmostTransaction(xid));

	if (LockAcquire(&tag, ShareLock, false, true) != LOCKACQUIRE_NOT_AVAIL)
	{
		LockRelease(&tag, ShareLock, false);
		return false;
	}
	XactLockTableWait(xid, NULL, NULL, XLTW_None);
	return true;
}

/* The lock goes with the transaction. */
static void
AtEnd_new_parents(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
	{
		looked_at = NIL;
		holds_lock = false;
	}
}

void
jobstate_new_parent_init(void)
{
	RegisterXactCallback(AtEnd_new_parents, NULL);
}
