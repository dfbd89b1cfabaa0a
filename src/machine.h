/*
 * src/machine.h
 *
 * A finite state machine, compiled from the catalogue into a bit matrix.
 */
#ifndef JOBSTATE_MACHINE_H
#define JOBSTATE_MACHINE_H

#include "nodes/bitmapset.h"

#define JOBSTATE_MAX_STATES		256

typedef struct JobstateState
{
	int16		id;
	char	   *name;
	int			name_len;
	bool		is_initial;
	bool		is_terminal;
	Bitmapset  *next;			/* indexes of the states that may follow */
} JobstateState;

typedef struct JobstateMachine
{
	char	   *name;
	int			nstates;
	JobstateState *state;		/* in order of id */
} JobstateMachine;

extern JobstateMachine *jobstate_machine_load(const char *name);
extern int	jobstate_machine_by_id(const JobstateMachine *machine, int32 id);
extern int	jobstate_machine_by_name(const JobstateMachine *machine,
									 const char *name, int len);
extern bool jobstate_machine_allows(const JobstateMachine *machine,
									int from, int to);

#endif							/* JOBSTATE_MACHINE_H */
