/*
 * src/derive.c
 *
 * Parents whose state follows from all their children, written before commit.
 *
 * Problem: two transactions change two children of one parent.  Neither sees
 * the other's change, so each writes a state that is wrong once both have
 * committed; or neither writes, because to each the state seems to stay.
 * Solution: who has changed a child locks the parent before commit, and reads
 * the children under a snapshot that is taken after the lock was granted.
 * Whoever held the lock before has committed, and is seen.  Who comes later
 * sees us.  So the last to commit has seen all.
 * Non-problems: isolation levels, because neither the lock nor the read goes by
 * the transaction's own snapshot.  What is written depends on nothing that the
 * transaction has read before, so it is right at each of them, and nobody fails
 * for a parent that somebody else has changed.
 * Non-problems: parents that come after their children; see newparent.c.
 * Non-problems: deadlocks among those who do this, because parents are locked
 * in the order of their keys, and tables from the bottom to the top.
 *
 * It happens when all deferred triggers have run, and before the flush.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "attach.h"
#include "catalog.h"
#include "children.h"
#include "compat.h"
#include "derive.h"
#include "error.h"
#include "newparent.h"
#include "parentwrite.h"
#include "recount.h"
#include "rowscan.h"
#include "touched.h"

PG_FUNCTION_INFO_V1(jobstate_derive_now);
PG_FUNCTION_INFO_V1(jobstate_rederive);
PG_FUNCTION_INFO_V1(jobstate_touch_parents);

static void
forget_plan(void *arg)
{
	JobstateSource *source = arg;

	if (source->plan != NULL)
		SPI_freeplan(source->plan);
}

/* The parent's derivations, made ready once. */
static List *
sources_of(JobstateAttachment *parent)
{
	MemoryContext before;
	List	   *sources = NIL;
	ListCell   *cell;

	if (parent->derived != NIL)
		return parent->derived;
	before = MemoryContextSwitchTo(parent->context);
	foreach(cell, parent->sources)
	{
		JobstateSource *source = palloc0(sizeof(JobstateSource));

		source->derivation = lfirst(cell);
		source->rules = jobstate_rules_load(source->derivation->rule_set);
		source->ordered = source->rules->is_ordered ||
			source->derivation->child_error != NULL;
		source->forget.func = forget_plan;
		source->forget.arg = source;
		MemoryContextRegisterResetCallback(parent->context, &source->forget);
		sources = lappend(sources, source);
	}
	MemoryContextSwitchTo(before);
	parent->derived = sources;
	return sources;
}

static void
unlock_row(JobstateLockedRow *row)
{
	ExecDropSingleTupleTableSlot(row->slot);
	table_close(row->rel, NoLock);
}

/* A version that this transaction wrote is as good as locked. */
static bool
is_ours(TupleTableSlot *slot)
{
	bool		isnull;
	Datum		xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull);

	return TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
}

/*
 * Locks the row that the scan stands at.  False if somebody has changed it
 * meanwhile, so that it is to be looked for again.
 */
static bool
lock_version(JobstateLockedRow *row, JobstateRowScan *scan)
{
	TM_FailureData failure;
	ItemPointerData tid = scan->slot->tts_tid;
	TM_Result	result;

	if (is_ours(scan->slot))
	{
		ExecCopySlot(row->slot, scan->slot);
		return true;
	}
	result = table_tuple_lock(row->rel, &tid, scan->snapshot, row->slot,
							  GetCurrentCommandId(false),
							  LockTupleNoKeyExclusive, LockWaitBlock,
							  0, &failure);

	switch (result)
	{
		case TM_Ok:
			return true;
		case TM_Updated:
		case TM_Deleted:
			return false;
		default:
			elog(ERROR, "unexpected result of table_tuple_lock(): %d", result);
	}
}

/* Looks for the row in one table; *again if it slipped away meanwhile. */
static bool
lock_in_table(Oid relid, JobstateTouched *touched, JobstateLockedRow *row,
			  Snapshot snapshot, bool *again)
{
	JobstateRowScan *scan;
	bool		locked = false;

	row->rel = table_open(relid, RowExclusiveLock);
	row->watched = jobstate_watched(relid);
	if (row->watched == NULL)
		jobstate_error_not_attached(relid);
	scan = jobstate_row_scan_begin(row->rel, jobstate_primary_key(row->rel),
								   touched->parent->row_key, &touched->key,
								   row->watched->row_attno, snapshot);
	row->slot = table_slot_create(row->rel, NULL);
	if (jobstate_row_scan_next(scan))
	{
		locked = lock_version(row, scan);
		*again |= !locked;
	}
	jobstate_row_scan_end(scan);
	if (!locked)
		unlock_row(row);
	return locked;
}

/*
 * Locks the parent; false where there is none (any more).  All partitions are
 * looked at by one snapshot: between two of them a row could go from where we
 * are yet to look to where we have been.
 */
static bool
lock_parent(JobstateTouched *touched, JobstateLockedRow *row)
{
	List	   *tables = jobstate_tables_of(touched->parent->target, RowExclusiveLock);
	bool		locked = false;
	bool		again;

	do
	{
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
		ListCell   *cell;

		again = false;
		foreach(cell, tables)
			if (!locked)
				locked = lock_in_table(lfirst_oid(cell), touched, row, snapshot, &again);
		UnregisterSnapshot(snapshot);
	} while (!locked && (again || jobstate_new_parent_missing(touched)));
	return locked;
}

/* Asks the derivations in order; the first whose table has children decides. */
static void
decide(JobstateTouched *touched, JobstateVerdict *verdict)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	JobstateChildren *children = NULL;
	ListCell   *cell;

	foreach(cell, sources_of(touched->parent))
	{
		JobstateSource *source = lfirst(cell);
		JobstateChildren *found = jobstate_children_read(source->derivation, source->ordered,
														 touched, snapshot);

		if (found->n > 0 || children == NULL)
		{
			children = found;
			verdict->source = source;
		}
		if (found->n > 0)
			break;
	}
	UnregisterSnapshot(snapshot);
	if (children == NULL)
		return;
	verdict->rule = jobstate_rules_match(verdict->source->rules, children->child, children->n);
	if (verdict->rule == NULL)
		return;
	verdict->state = jobstate_machine_by_name(touched->parent->machine, verdict->rule->result,
											  strlen(verdict->rule->result));
	if (verdict->state < 0)
		jobstate_error_no_state(touched->parent, verdict->rule->result);
	if (verdict->source->derivation->child_error != NULL)
		verdict->error = jobstate_children_error(children, verdict->rule->result);
	verdict->reason = psprintf("%s %d: %s", verdict->source->rules->name,
							   verdict->rule->ord, verdict->rule->text);
}

static Datum
column_of(JobstateLockedRow *row, const char *name, bool *isnull)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(row->rel), name);

	if (attno == InvalidAttrNumber)
		jobstate_error_no_column(row->rel, name);
	return slot_getattr(row->slot, attno, isnull);
}

static bool
text_differs(JobstateLockedRow *row, const char *name, const char *wanted)
{
	bool		isnull;
	Datum		value;

	if (name == NULL || wanted == NULL)
		return false;
	value = column_of(row, name, &isnull);
	return isnull || strcmp(TextDatumGetCString(value), wanted) != 0;
}

/* Is the row other than the children say? */
static bool
differs(JobstateLockedRow *row, JobstateVerdict *verdict)
{
	JobstateAttachment *parent = row->watched->attachment;
	JobstateDerivation *derivation = verdict->source->derivation;
	bool		isnull;
	Datum		value = slot_getattr(row->slot, row->watched->state_attno, &isnull);

	if (jobstate_state_index(parent, value, isnull) != verdict->state)
		return true;
	if (derivation->completed_at != NULL)
	{
		(void) column_of(row, derivation->completed_at, &isnull);
		if (isnull == parent->machine->state[verdict->state].is_terminal)
			return true;
	}
	return text_differs(row, derivation->error, verdict->error) ||
		text_differs(row, derivation->reason, verdict->reason);
}

static void
say_what(void *arg)
{
	errcontext("deriving the state of a row of table \"%s\"",
			   get_rel_name(((JobstateTouched *) arg)->parent->target));
}

/* Makes one parent what its children say.  Returns whether it was not. */
static bool
derive_one(JobstateTouched *touched)
{
	ErrorContextCallback context = {error_context_stack, say_what, touched};
	JobstateLockedRow row;
	JobstateVerdict verdict = {0};
	bool		changed = false;

	CHECK_FOR_INTERRUPTS();
	error_context_stack = &context;
	CommandCounterIncrement();
	if (lock_parent(touched, &row))
	{
		JOBSTATE_INSTANT("derive-locked");
		decide(touched, &verdict);
		changed = verdict.rule != NULL && differs(&row, &verdict);
		if (changed)
			jobstate_parent_write(touched, &row, &verdict);
		JOBSTATE_INSTANT("derive-written");
		unlock_row(&row);
	}
	error_context_stack = context.previous;
	return changed;
}

/* Does so for all that were touched, and for what is touched by that. */
static int64
derive_touched(void)
{
	MemoryContext batch = AllocSetContextCreate(CurrentMemoryContext, "jobstate derive",
												ALLOCSET_DEFAULT_SIZES);
	MemoryContext one = AllocSetContextCreate(batch, "jobstate derive one",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext before = MemoryContextSwitchTo(batch);
	int64		changed = 0;

	PushActiveSnapshot(GetLatestSnapshot());	/* functions of types want one */
	while (jobstate_touched_any())
	{
		int			n;
		JobstateTouched *touched = jobstate_touched_take(&n);
		int			i;

		jobstate_new_parents_lock(touched, n);
		MemoryContextSwitchTo(one);
		for (i = 0; i < n; i++)
		{
			changed += derive_one(&touched[i]);
			MemoryContextReset(one);
		}
		MemoryContextSwitchTo(batch);
	}
	PopActiveSnapshot();
	MemoryContextSwitchTo(before);
	MemoryContextDelete(batch);
	return changed;
}

/*
 * The server has fired deferred triggers before it comes here.  What our writes
 * have queued since, a deferred constraint of the parent's for instance, has
 * its turn in between.
 */
static void
AtPreCommit_derive(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE)
		return;
	while (jobstate_touched_any() && jobstate_catalog_exists())
	{
		(void) derive_touched();
		AfterTriggerFireDeferred();
	}
}

void
jobstate_derive_init(void)
{
	RegisterXactCallback(AtPreCommit_derive, NULL);
}

/* What the commit would do, now, with the rights that we have now */
void
jobstate_derive_pending(void)
{
	if (jobstate_touched_any())
		(void) derive_touched();
}

/* derive_now() returns bigint: what the commit would do, and how many rows */
Datum
jobstate_derive_now(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(derive_touched());
}

/* rederive(parent) returns bigint: every row of the table, and how many changed */
Datum
jobstate_rederive(PG_FUNCTION_ARGS)
{
	Oid			parent;

	if (PG_ARGISNULL(0))
		jobstate_error_null("parent");
	parent = PG_GETARG_OID(0);
	jobstate_require_owner(parent);
	if (jobstate_attachment(parent)->sources == NIL)
		jobstate_error_not_derived(parent);
	jobstate_touch_all(parent);
	PG_RETURN_INT64(derive_touched());
}

/* touch_parents(parent) returns void: the same at commit, for who changes rules */
Datum
jobstate_touch_parents(PG_FUNCTION_ARGS)
{
	if (!PG_ARGISNULL(0))
		jobstate_touch_all(PG_GETARG_OID(0));
	PG_RETURN_VOID();
}
