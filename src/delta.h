/*
 * src/delta.h
 *
 * By how much the counts of some states change.
 */
#ifndef JOBSTATE_DELTA_H
#define JOBSTATE_DELTA_H

typedef struct JobstateDelta
{
	int16		state_id;
	SubTransactionId saved_in;	/* in a tally: the newest one that can undo
								 * this */
	int64		n;
} JobstateDelta;

#define JOBSTATE_FEW_DELTAS		2

/* Points into itself, so it stays where it was made */
typedef struct JobstateDeltas
{
	MemoryContext context;
	int			n;
	int			max;
	JobstateDelta *delta;
	JobstateDelta few[JOBSTATE_FEW_DELTAS]; /* the first ones */
} JobstateDeltas;

extern void jobstate_deltas_init(JobstateDeltas *deltas, MemoryContext context);
extern JobstateDelta *jobstate_deltas_find(JobstateDeltas *deltas, int16 state_id);
extern void jobstate_deltas_add(JobstateDeltas *deltas, int16 state_id, int64 n);
extern bool jobstate_deltas_any(JobstateDeltas *deltas);
extern text *jobstate_deltas_to_text(JobstateDeltas *deltas);
extern void jobstate_deltas_add_text(JobstateDeltas *deltas, text *stored);

#endif							/* JOBSTATE_DELTA_H */
