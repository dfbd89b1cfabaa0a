/*
 * src/guard.c
 *
 * Is this state change legal?
 *
 * The guard looks at rows as they are written, after every BEFORE trigger had
 * its say.  A row that stays in its state is none of its business.  Where rows
 * are replayed (session_replication_role = replica) the origin has judged
 * already: only a state that the machine does not have is still refused,
 * because it could not be counted.
 */
#include "postgres.h"

#include "commands/trigger.h"

#include "error.h"
#include "guard.h"
#include "rowscan.h"

static JobstateExpected expected = {InvalidOid, -1, NULL};

/* Are rows replayed that another server has judged? */
bool
jobstate_guard_is_off(void)
{
	return SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA;
}

/* From here on this row of a derived table may go to this state. */
JobstateExpected
jobstate_guard_expect(JobstateExpected now)
{
	JobstateExpected before = expected;

	expected = now;
	return before;
}

/* The row must be in a state of the machine. */
void
jobstate_guard_state(JobstateWatched *watched, Relation rel,
					 TupleTableSlot *slot, JobstateFact *fact)
{
	if (fact->state < 0)
		jobstate_error_unknown_state(watched, rel, slot);
}

/* A new row must be in a state that rows may begin in. */
void
jobstate_guard_insert(JobstateWatched *watched, Relation rel,
					  TupleTableSlot *slot, JobstateFact *fact)
{
	JobstateMachine *machine = watched->attachment->machine;

	if (!machine->state[fact->state].is_initial && !jobstate_guard_is_off())
		jobstate_error_illegal_insert(watched, rel, slot, fact->state);
}

/* Is it for the row's children to say in which state it is? */
static bool
is_derived(JobstateWatched *watched, TupleTableSlot *slot, int to)
{
	JobstateAttachment *attachment = watched->attachment;

	if (attachment->sources == NIL)
		return false;
	return expected.target != attachment->target || expected.state != to ||
		!jobstate_row_has_key(slot, attachment->row_key, expected.key, watched->row_attno);
}

/* A row may only go where the machine has an edge. */
void
jobstate_guard_move(JobstateWatched *watched, Relation rel,
					TupleTableSlot *slot, int from, int to)
{
	JobstateMachine *machine = watched->attachment->machine;

	if (jobstate_guard_is_off())
		return;
	if (from != to && is_derived(watched, slot, to))
		jobstate_error_derived(watched, rel, slot, from, to);
	if (!jobstate_machine_allows(machine, from, to))
		jobstate_error_illegal_move(watched, rel, slot, from, to);
}
