/*
 * src/counts.h
 *
 * What the counters say.
 */
#ifndef JOBSTATE_COUNTS_H
#define JOBSTATE_COUNTS_H

#include "fmgr.h"

#include "catalog.h"
#include "recount.h"

typedef enum JobstateReading
{
	JOBSTATE_READ_COUNTED,		/* the sums are exact in the snapshot */
	JOBSTATE_READ_UNCOUNTED,	/* no marker: nobody counted the table yet */
	JOBSTATE_READ_STALE			/* a fold is in the way */
} JobstateReading;

extern void jobstate_counts_check_rights(Oid target);
extern JobstateReading jobstate_counts_read(JobstateAttachment *attachment,
											JobstateFilter *filter,
											Snapshot snapshot,
											Snapshot *newest,
											JobstateSums *sums);
extern void jobstate_counts_add_pending(JobstateAttachment *attachment,
										JobstateSums *sums);
extern void jobstate_counts_exact(JobstateAttachment *attachment,
								  JobstateFilter *filter, JobstateSums *sums);
extern JobstateSums *jobstate_counts_merge(JobstateAttachment *attachment,
										   JobstateTallySet *spelling,
										   JobstateFilter *filter,
										   JobstateSums *sums);
extern JobstateAttachment *jobstate_counts_arguments(FunctionCallInfo fcinfo,
													 JobstateFilter **filter,
													 JobstateRole *role);
extern void jobstate_counts_add_asked(JobstateAttachment *attachment,
									  JobstateFilter *filter,
									  JobstateTallySet *spelling,
									  JobstateSums *sums);
extern int64 jobstate_counts_checked(JobstateAttachment *attachment,
									 JobstateSum *sum, int state);

#endif							/* JOBSTATE_COUNTS_H */
