/*
 * src/watch.c
 *
 * The one AFTER ROW trigger: guard first, tally second; and the parents are
 * remembered whose state may have to follow.  Rows that the extension
 * itself writes (rowwrite.c) come here without the detour by a trigger.
 *
 * An UPDATE that moves a row to another partition comes as a DELETE and an
 * INSERT.
 * Problem: the insert must be judged as a move from the state that the deleted
 * half was in, and must not be taken for a new row.
 * Non-problems: counting, where the two halves are right as they are.
 * Solution: the deleted tuple says in its header that it moved.  Then the next
 * insert of the same table, command and trigger depth is the other half: the
 * executor queues both events one after the other, and what other triggers do
 * in between has another depth or another command.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"

#include "attach.h"
#include "attachment.h"
#include "error.h"
#include "guard.h"
#include "tally.h"
#include "touched.h"
#include "watch.h"

PG_FUNCTION_INFO_V1(jobstate_watch);

/* The half of a move that has been seen, per trigger depth */
typedef struct HalfMove
{
	TransactionId xid;
	CommandId	cid;
	Oid			target;
	int16		state_id;
} HalfMove;

#define MAX_DEPTH	32
static HalfMove half_move[MAX_DEPTH];

static HalfMove *
half_move_here(void)
{
	int			depth = DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0));

	return &half_move[Min(depth, MAX_DEPTH - 1)];
}

static void
remember_half(JobstateWatched *watched, HeapTuple old, int state)
{
	HalfMove   *half = half_move_here();

	half->xid = GetTopTransactionId();
	half->cid = HeapTupleHeaderGetCmax(old->t_data);
	half->target = watched->attachment->target;
	half->state_id = watched->attachment->machine->state[state].id;
}

/* Is this insert the other half of a move?  Then tells from which state. */
static bool
take_half(JobstateWatched *watched, HeapTuple new, int *state)
{
	HalfMove   *half = half_move_here();

	if (half->target != watched->attachment->target ||
		half->xid != GetTopTransactionIdIfAny() ||
		half->cid != HeapTupleHeaderGetCmin(new->t_data))
		return false;
	half->target = InvalidOid;
	*state = jobstate_machine_by_id(watched->attachment->machine, half->state_id);
	return *state >= 0;
}

/* Does the state of any row depend on rows of this table? */
static bool
is_touching(JobstateWatched *watched)
{
	return (watched->links != NIL || watched->attachment->sources != NIL) &&
		!jobstate_guard_is_off();
}

/* A row was inserted; "from" is the state of a moved row's other half, or -1. */
static void
inserted(JobstateWatched *watched, Relation rel, TupleTableSlot *slot, int from)
{
	JobstateFact new;

	jobstate_fact_read(watched, slot, &new);
	jobstate_guard_state(watched, rel, slot, &new);
	if (from >= 0)
		jobstate_guard_move(watched, rel, slot, from, new.state);
	else
		jobstate_guard_insert(watched, rel, slot, &new);
	jobstate_tally_add(watched->attachment, &new, 1);
	if (is_touching(watched))
		jobstate_touch_row(watched, slot, true);
}

void
jobstate_watch_inserted(JobstateWatched *watched, Relation rel, TupleTableSlot *slot)
{
	inserted(watched, rel, slot, -1);
}

void
jobstate_watch_updated(JobstateWatched *watched, Relation rel,
					   TupleTableSlot *oldslot, TupleTableSlot *newslot)
{
	JobstateFact old;
	JobstateFact new;

	jobstate_fact_read(watched, newslot, &new);
	jobstate_guard_state(watched, rel, newslot, &new);
	jobstate_fact_read(watched, oldslot, &old);
	if (is_touching(watched))
		jobstate_touch_update(watched, oldslot, newslot, old.state != new.state);
	if (old.state < 0)
	{
		/* it came in while the trigger was off: it was never counted */
		jobstate_guard_insert(watched, rel, newslot, &new);
		jobstate_tally_add(watched->attachment, &new, 1);
		return;
	}
	if (old.state != new.state)
		jobstate_guard_move(watched, rel, newslot, old.state, new.state);
	jobstate_tally_move(watched->attachment, &old, &new);
}

static void
watch_insert(JobstateWatched *watched, TriggerData *event)
{
	int			from = -1;

	if (watched->relid != watched->attachment->target &&
		!take_half(watched, event->tg_trigtuple, &from))
		from = -1;
	inserted(watched, event->tg_relation, event->tg_trigslot, from);
}

static void
watch_delete(JobstateWatched *watched, TriggerData *event)
{
	JobstateFact old;

	if (is_touching(watched))
		jobstate_touch_row(watched, event->tg_trigslot, false);
	jobstate_fact_read(watched, event->tg_trigslot, &old);
	if (old.state < 0)
		return;
	if (watched->relid != watched->attachment->target &&
		HeapTupleHeaderIndicatesMovedPartitions(event->tg_trigtuple->t_data))
		remember_half(watched, event->tg_trigtuple, old.state);
	jobstate_tally_add(watched->attachment, &old, -1);
}

Datum
jobstate_watch(PG_FUNCTION_ARGS)
{
	TriggerData *event = (TriggerData *) fcinfo->context;
	JobstateWatched *watched;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(event->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(event->tg_event) ||
		strcmp(event->tg_trigger->tgname, JOBSTATE_ROW_TRIGGER) != 0)
		jobstate_error_trigger_protocol("watch");

	watched = jobstate_watched(RelationGetRelid(event->tg_relation));
	if (watched == NULL)
		jobstate_error_trigger_unattached(event->tg_relation, event->tg_trigger);

	if (TRIGGER_FIRED_BY_UPDATE(event->tg_event))
		jobstate_watch_updated(watched, event->tg_relation,
							   event->tg_trigslot, event->tg_newslot);
	else if (TRIGGER_FIRED_BY_INSERT(event->tg_event))
		watch_insert(watched, event);
	else
		watch_delete(watched, event);
	return PointerGetDatum(NULL);
}
