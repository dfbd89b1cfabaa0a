/*
 * src/machine.c
 *
 * A finite state machine, compiled from the catalogue into a bit matrix.
 *
 * A compiled machine never changes: a new definition is a new machine, and
 * whoever holds the old one lets it go (see attachment.c).  Inside a backend a
 * state is the index of its row; its id appears only at the edges, in rows,
 * in the log and in what users read.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "catalog.h"
#include "error.h"
#include "machine.h"

/* jobstate.state and jobstate.transition, as the install script makes them */
enum
{
	Anum_state_machine = 1,
	Anum_state_id,
	Anum_state_name,
	Anum_state_is_initial,
	Anum_state_is_terminal
};
enum
{
	Anum_transition_machine = 1,
	Anum_transition_from,
	Anum_transition_to
};

static Datum
column(HeapTuple tuple, Relation rel, int attnum)
{
	bool		isnull;

	return heap_getattr(tuple, attnum, RelationGetDescr(rel), &isnull);
}

static void
load_states(JobstateMachine *machine)
{
	Relation	rel = table_open(jobstate_catalog()->state, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan = jobstate_catalog_scan(rel, jobstate_catalog()->state_pkey,
									machine->name, &key);
	HeapTuple	tuple;

	machine->state = palloc0(sizeof(JobstateState) * JOBSTATE_MAX_STATES);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		JobstateState *state = &machine->state[machine->nstates];

		if (machine->nstates++ == JOBSTATE_MAX_STATES)
			jobstate_error_too_many_states(machine->name);
		state->id = DatumGetInt16(column(tuple, rel, Anum_state_id));
		state->name = TextDatumGetCString(column(tuple, rel, Anum_state_name));
		state->name_len = strlen(state->name);
		state->is_initial = DatumGetBool(column(tuple, rel, Anum_state_is_initial));
		state->is_terminal = DatumGetBool(column(tuple, rel, Anum_state_is_terminal));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

static void
load_transitions(JobstateMachine *machine)
{
	Relation	rel = table_open(jobstate_catalog()->transition, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan = jobstate_catalog_scan(rel, jobstate_catalog()->transition_pkey,
									machine->name, &key);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		int			from = jobstate_machine_by_id(machine,
												  DatumGetInt16(column(tuple, rel, Anum_transition_from)));
		int			to = jobstate_machine_by_id(machine,
												DatumGetInt16(column(tuple, rel, Anum_transition_to)));

		if (from < 0 || to < 0)
			elog(ERROR, "machine \"%s\" has a transition of an unknown state",
				 machine->name);
		machine->state[from].next = bms_add_member(machine->state[from].next, to);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/* Compiles a machine into the current memory context. */
JobstateMachine *
jobstate_machine_load(const char *name)
{
	JobstateMachine *machine = palloc0(sizeof(JobstateMachine));

	machine->name = pstrdup(name);
	load_states(machine);
	if (machine->nstates == 0)
		jobstate_error_no_machine(name);
	load_transitions(machine);
	return machine;
}

/* The index of the state with this id, or -1. */
int
jobstate_machine_by_id(const JobstateMachine *machine, int32 id)
{
	int			low = 0;
	int			high = machine->nstates - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		int32		found = machine->state[middle].id;

		if (found == id)
			return middle;
		if (found < id)
			low = middle + 1;
		else
			high = middle - 1;
	}
	return -1;
}

/* The index of the state with this name, or -1.  Machines are small. */
int
jobstate_machine_by_name(const JobstateMachine *machine,
						 const char *name, int len)
{
	int			i;

	for (i = 0; i < machine->nstates; i++)
		if (machine->state[i].name_len == len &&
			memcmp(machine->state[i].name, name, len) == 0)
			return i;
	return -1;
}

/* May a row go from one state to the other?  Staying is always allowed. */
bool
jobstate_machine_allows(const JobstateMachine *machine, int from, int to)
{
	return from == to || bms_is_member(to, machine->state[from].next);
}
