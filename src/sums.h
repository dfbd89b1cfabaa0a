/*
 * src/sums.h
 *
 * Rows of the log, added up by key as it is stored.
 */
#ifndef JOBSTATE_SUMS_H
#define JOBSTATE_SUMS_H

#include "log.h"
#include "tally.h"

typedef struct JobstateSum
{
	int64		epoch;
	uint32		hash;
	text	   *key;
	bool		counted;		/* the epoch's marker was among the rows */
	bool		asked;			/* wanted even where it is zero */
	JobstateDeltas deltas;
} JobstateSum;

typedef struct JobstateSums JobstateSums;

extern JobstateSums *jobstate_sums_create(MemoryContext context);
extern void jobstate_sums_reset(JobstateSums *sums);
extern JobstateSum *jobstate_sums_find(JobstateSums *sums, int64 epoch,
									   uint32 hash, text *key);
extern void jobstate_sums_add(JobstateSum *sum, JobstateDeltas *deltas, int sign);
extern void jobstate_sums_add_row(JobstateSums *sums, JobstateLogRow *row);
extern void jobstate_sums_add_tally(JobstateSums *sums, JobstateTally *tally);
extern bool jobstate_sums_is_zero(JobstateSum *sum);
extern int64 jobstate_sums_get(JobstateSum *sum, int16 state_id);
extern uint32 jobstate_sums_count(JobstateSums *sums);
extern int	jobstate_sums_list(JobstateSums *sums, JobstateSum ***list);
extern int	jobstate_sums_to_rows(JobstateSum *sum, JobstateLogRow *row);

#endif							/* JOBSTATE_SUMS_H */
