/*
 * src/lane.h
 *
 * Available jobs of a lane, in order.
 */
#ifndef JOBSTATE_LANE_H
#define JOBSTATE_LANE_H

#include "access/genam.h"

#include "queueinfo.h"

/* What a claim knows of the queue as a whole */
typedef struct JobstateLaneScan
{
	JobstateJobTable *jobs;
	int64		last;			/* number drawn last */
	uint64		horizon;		/* whoever drew it, or before, has a lower xid */
	Snapshot	snapshot;		/* taken after that */
} JobstateLaneScan;

/* A lane while it is being claimed from */
typedef struct JobstateLane
{
	int16		lane;
	int16		priority;

	/* the window, as published */
	int64		floor;
	int64		ceiling;
	int64		settled;

	/* the scan */
	int64		start;			/* first position looked at */
	int			step;			/* which of the partitions */
	JobstateJobPart *part;		/* NULL: between two */
	IndexScanDesc scan;
	TupleTableSlot *slot;		/* an available job */
	bool		exhausted;
	bool		unsure;			/* jobs may have escaped the snapshot */
	int64		first;			/* first position seen available, or 0 */
	int64		passed;			/* rows that were not available */
	int64		claimed;		/* greatest position claimed, or 0 */
} JobstateLane;

extern void jobstate_lane_init(void);
extern void jobstate_lane_open(JobstateLane *lane, JobstateLaneInfo *info,
							   JobstateLaneScan *scan);
extern bool jobstate_lane_next(JobstateLane *lane, JobstateLaneScan *scan);
extern void jobstate_lane_close(JobstateLane *lane, JobstateLaneScan *scan);

#endif							/* JOBSTATE_LANE_H */
