/*
 * src/guard.h
 *
 * Is this state change legal?
 */
#ifndef JOBSTATE_GUARD_H
#define JOBSTATE_GUARD_H

#include "attachment.h"

/* What derive writes at this moment */
typedef struct JobstateExpected
{
	Oid			target;
	int			state;			/* index */
	JobstateKeyValues *key;		/* the row's primary key */
} JobstateExpected;

extern void jobstate_guard_state(JobstateWatched *watched, Relation rel,
								 TupleTableSlot *slot, JobstateFact *fact);
extern void jobstate_guard_insert(JobstateWatched *watched, Relation rel,
								  TupleTableSlot *slot, JobstateFact *fact);
extern bool jobstate_guard_is_off(void);
extern JobstateExpected jobstate_guard_expect(JobstateExpected now);
extern void jobstate_guard_move(JobstateWatched *watched, Relation rel,
								TupleTableSlot *slot, int from, int to);

#endif							/* JOBSTATE_GUARD_H */
