/*
 * src/rowwrite.c
 *
 * Writing rows of a watched table from C.
 *
 * Problem: of what a row of a batch costs, most is the server's AFTER ROW
 * machinery, which queues an event, fetches both versions again and calls us.
 * Solution: where ours is the only trigger, the row is handed to guard and tally
 * as soon as it is written.
 * Where a table has other triggers, foreign keys among them, the row goes the
 * executor's way, so they fire, and ours with them.
 *
 * Constraints and indexes are looked after in both ways.  A row is never moved
 * to another partition here.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"

#include "attach.h"
#include "compat.h"
#include "constraint.h"
#include "error.h"
#include "rowwrite.h"
#include "watch.h"

/* Whether the caller may do this to the table, as the executor would ask. */
void
jobstate_rows_check_rights(Oid target, AclMode rights)
{
	if (pg_class_aclmask(target, GetUserId(), rights, ACLMASK_ALL) != rights)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(target));
	if (check_enable_rls(target, InvalidOid, false) == RLS_ENABLED)
		jobstate_error_row_security(target);
}

/*
 * Has the relation a trigger on its rows besides ours, or is ours off?  Or has it
 * columns that the executor computes?
 */
static bool
wants_executor(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;
	TupleConstr *constr = rel->rd_att->constr;
	bool		ours = false;
	int			i;

	if (constr != NULL && constr->has_generated_stored)
		return true;
	for (i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (strcmp(trigger->tgname, JOBSTATE_ROW_TRIGGER) == 0)
			ours = trigger->tgenabled == TRIGGER_FIRES_ALWAYS;
		else if (TRIGGER_FOR_ROW(trigger->tgtype))
			return true;
	}
	return !ours;
}

/* A trigger of statements that would fire if the table were written by name */
static Trigger *
statement_trigger(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;
	int			i;

	for (i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (!TRIGGER_FOR_ROW(trigger->tgtype) &&
			!TRIGGER_FOR_TRUNCATE(trigger->tgtype) &&
			trigger->tgenabled != TRIGGER_DISABLED)
			return trigger;
	}
	return NULL;
}

/*
 * Triggers of statements sit on the table that is named, and nobody fires them
 * here.  Where the table is written by name they would, so say so.
 */
void
jobstate_rows_refuse_triggers(Relation target)
{
	Trigger    *trigger = statement_trigger(target);

	if (trigger != NULL)
		jobstate_error_statement_trigger(target, trigger);
}

/* Is ours the only trigger that a row of this table would fire? */
bool
jobstate_row_writer_is_direct(Relation rel)
{
	return !wants_executor(rel) && statement_trigger(rel) == NULL;
}

/* The executor's share, made when it is needed: most updates get by without. */
static void
need_executor(JobstateRowWriter *writer)
{
	if (writer->estate != NULL)
		return;
	writer->estate = CreateExecutorState();
	writer->estate->es_output_cid = writer->cid;
	writer->rri = makeNode(ResultRelInfo);
	InitResultRelInfo(writer->rri, writer->rel, 0, NULL, 0);
}

/* For writing to a table, or a partition of one, that stays open and locked. */
JobstateRowWriter *
jobstate_row_writer_open(Relation rel)
{
	JobstateRowWriter *writer = palloc0(sizeof(JobstateRowWriter));

	writer->rel = rel;
	writer->cid = GetCurrentCommandId(true);
	if (!wants_executor(rel))
		writer->watched = jobstate_watched(RelationGetRelid(rel));
	if (writer->watched == NULL)
	{
		need_executor(writer);
		jobstate_epq_init(&writer->epq, writer->estate);
		AfterTriggerBeginQuery();
	}
	return writer;
}

static void
open_indexes(JobstateRowWriter *writer)
{
	need_executor(writer);
	if (!writer->indexes_open)
		ExecOpenIndices(writer->rri, false);
	writer->indexes_open = true;
}

void
jobstate_row_writer_close(JobstateRowWriter *writer)
{
	if (writer->watched == NULL)
	{
		AfterTriggerEndQuery(writer->estate);
		EvalPlanQualEnd(&writer->epq);
	}
	if (writer->indexes_open)
		ExecCloseIndices(writer->rri);
	if (writer->estate != NULL)
	{
		ExecCloseResultRelations(writer->estate);
		ExecResetTupleTable(writer->estate->es_tupleTable, false);
		FreeExecutorState(writer->estate);
	}
	pfree(writer);
}

/* Raises what the executor would, where a constraint does not hold. */
static void
check_constraints(JobstateRowWriter *writer, TupleTableSlot *slot)
{
	if (jobstate_constraints_hold(writer->rel, slot))
		return;
	need_executor(writer);
	ExecConstraints(writer->rri, slot, writer->estate);
}

/* Frees what was made for one row. */
static void
reset_row(JobstateRowWriter *writer)
{
	if (writer->estate != NULL)
		ResetPerTupleExprContext(writer->estate);
}

/* Does the row look as if somebody had it?  Who comes to have it now does not show. */
bool
jobstate_row_seems_locked(TupleTableSlot *slot)
{
	HeapTuple	row = ExecFetchSlotHeapTuple(slot, false, NULL);

	return !(row->t_data->t_infomask & HEAP_XMAX_INVALID);
}

/*
 * Locks the version of a row that was found, and reads it into another slot.  TM_Ok,
 * or why not: it was changed meanwhile, or without wait somebody has it.
 */
TM_Result
jobstate_row_lock(JobstateRowWriter *writer, TupleTableSlot *found,
				  Snapshot snapshot, bool wait, TupleTableSlot *locked)
{
	TM_FailureData failure;
	ItemPointerData tid = found->tts_tid;

	return table_tuple_lock(writer->rel, &tid, snapshot, locked, writer->cid,
							LockTupleNoKeyExclusive,
							wait ? LockWaitBlock : LockWaitSkip, 0, &failure);
}

/* The executor's way, on a row that is locked first. */
static TM_Result
update_by_executor(JobstateRowWriter *writer, TupleTableSlot *oldslot,
				   TupleTableSlot *newslot, Snapshot snapshot, bool wait)
{
	TupleTableSlot *locked = table_slot_create(writer->rel, NULL);
	TM_Result	result = jobstate_row_lock(writer, oldslot, snapshot, wait, locked);

	if (result == TM_Ok)
	{
		open_indexes(writer);
		ExecSimpleRelationUpdate(writer->rri, writer->estate, &writer->epq,
								 locked, newslot);
	}
	ExecDropSingleTupleTableSlot(locked);
	return result;
}

/* A server that checks its assertions does not put up with being wrong about this. */
static bool
must_lock(TupleTableSlot *slot)
{
#ifdef USE_ASSERT_CHECKING
	return true;
#else
	return jobstate_row_seems_locked(slot);
#endif
}

/*
 * Locks a row that is updated without wait.
 *
 * Problem: an update that does not wait fails on every lock, on our own too and on
 * one that it goes together with; heap_update() even asserts that there is none.
 * Solution: the row is locked first, which tells locks apart and passes over a row
 * only for one that is in the way.
 * A lock is a WAL record, so there is none on a row that nobody seems to have: who
 * comes to have it meanwhile makes the update fail, which writes nothing.
 */
static TM_Result
lock_without_wait(JobstateRowWriter *writer, TupleTableSlot *slot, Snapshot snapshot)
{
	TupleTableSlot *locked = table_slot_create(writer->rel, NULL);
	TM_Result	result = jobstate_row_lock(writer, slot, snapshot, false, locked);

	ExecDropSingleTupleTableSlot(locked);
	return result;
}

/*
 * Writes the new version of a row.  TM_Ok, or why it was not written: without
 * wait a row that somebody else has locked is passed over.
 */
TM_Result
jobstate_row_update(JobstateRowWriter *writer, TupleTableSlot *oldslot,
					TupleTableSlot *newslot, Snapshot snapshot, bool wait)
{
	TM_FailureData failure;
	LockTupleMode lockmode;
	JobstateIndexUpdate indexes;
	TM_Result	result;

	if (!writer->may_update)
		CheckCmdReplicaIdentity(writer->rel, CMD_UPDATE);
	writer->may_update = true;
	if (writer->watched == NULL)
		return update_by_executor(writer, oldslot, newslot, snapshot, wait);

	check_constraints(writer, newslot);
	if (!wait && must_lock(oldslot))
	{
		result = lock_without_wait(writer, oldslot, snapshot);
		if (result != TM_Ok)
			return result;
		wait = true;			/* for nobody but ourselves */
	}
	result = table_tuple_update(writer->rel, &oldslot->tts_tid, newslot,
								writer->cid, snapshot, InvalidSnapshot, wait,
								&failure, &lockmode, &indexes);
	if (result != TM_Ok)
		return result;
	if (jobstate_wants_indexes(indexes))
	{
		open_indexes(writer);
		list_free(jobstate_update_indexes(writer->rri, newslot, writer->estate,
										  indexes));
	}
	jobstate_watch_updated(writer->watched, writer->rel, oldslot, newslot);
	reset_row(writer);
	return result;
}

/* From now on jobstate_row_defaults() sets this column, if it has a default. */
void
jobstate_row_add_default(JobstateRowWriter *writer, AttrNumber attno)
{
	Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(writer->rel), attno - 1);
	Node	   *expr = NULL;
	JobstateDefault *made;

	if (!attr->attisdropped && !attr->attgenerated)
		expr = build_column_default(writer->rel, attno);
	if (expr == NULL)
		return;
	need_executor(writer);
	made = palloc(sizeof(JobstateDefault));
	made->attno = attno;
	made->expr = ExecPrepareExpr((Expr *) expr, writer->estate);
	writer->defaults = lappend(writer->defaults, made);
}

/* Sets the columns for which defaults were asked. */
void
jobstate_row_defaults(JobstateRowWriter *writer, TupleTableSlot *row)
{
	ListCell   *cell;

	foreach(cell, writer->defaults)
	{
		JobstateDefault *column = lfirst(cell);

		row->tts_values[column->attno - 1] =
			ExecEvalExpr(column->expr, GetPerTupleExprContext(writer->estate),
						 &row->tts_isnull[column->attno - 1]);
	}
}

static void
insert_by_executor(JobstateRowWriter *writer, TupleTableSlot **slots, int n)
{
	int			i;

	for (i = 0; i < n; i++)
		ExecSimpleRelationInsert(writer->rri, writer->estate, slots[i]);
}

/* Inserts rows, a page at a time. */
void
jobstate_rows_insert(JobstateRowWriter *writer, TupleTableSlot **slots, int n)
{
	int			i;

	open_indexes(writer);
	if (writer->watched == NULL)
	{
		insert_by_executor(writer, slots, n);
		return;
	}
	for (i = 0; i < n; i++)
		check_constraints(writer, slots[i]);
	table_multi_insert(writer->rel, slots, n, writer->cid, 0, NULL);
	for (i = 0; i < n; i++)
	{
		list_free(jobstate_insert_indexes(writer->rri, slots[i], writer->estate));
		jobstate_watch_inserted(writer->watched, writer->rel, slots[i]);
		reset_row(writer);
	}
}
