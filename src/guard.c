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

static bool
replayed(void)
{
	return SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA;
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

	if (!machine->state[fact->state].is_initial && !replayed())
		jobstate_error_illegal_insert(watched, rel, slot, fact->state);
}

/* A row may only go where the machine has an edge. */
void
jobstate_guard_move(JobstateWatched *watched, Relation rel,
					TupleTableSlot *slot, int from, int to)
{
	JobstateMachine *machine = watched->attachment->machine;

	if (!jobstate_machine_allows(machine, from, to) && !replayed())
		jobstate_error_illegal_move(watched, rel, slot, from, to);
}
