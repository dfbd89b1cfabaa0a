/*
 * src/lane.h
 *
 * Available jobs of a lane, in order.
 */
#ifndef JOBSTATE_LANE_H
#define JOBSTATE_LANE_H

#include "jobscan.h"
#include "queueinfo.h"

/* What a claim knows of the queue as a whole */
typedef struct JobstateLaneScan
{
	JobstateJobTable *jobs;
	int64		last;			/* number drawn last */
	uint64		horizon;		/* whoever drew it, or before, has a lower xid */
	Snapshot	snapshot;		/* taken after that */
} JobstateLaneScan;

/* Available jobs of one part of a lane, in order */
typedef struct JobstateLaneCursor
{
	JobstateJobScan scan;		/* not begun: at its end */
	int64		position;		/* of the job that it is at */
} JobstateLaneCursor;

/* What was published of a lane */
typedef struct JobstateLaneWindow
{
	int64		floor;
	int64		ceiling;
	int64		settled;
} JobstateLaneWindow;

/* A lane while it is being claimed from */
typedef struct JobstateLane
{
	int16		lane;
	int16		priority;

	JobstateLaneWindow window;

	/* the scan */
	int64		start;			/* first position looked at */
	int64		lap;			/* of the ring */
	JobstateLaneCursor kept;
	JobstateLaneCursor ring;
	JobstateLaneCursor *head;	/* has the next job; NULL: not begun, or */
	bool		exhausted;
	bool		unsure;			/* jobs may have escaped the snapshot */
	int64		first;			/* first position seen available, held or not; or 0 */
	int64		passed;			/* rows that were not available */
	int64		claimed;		/* greatest position claimed, or 0 */
} JobstateLane;

extern void jobstate_lane_init(void);
extern void jobstate_lane_note(int64 last, uint64 horizon);
extern void jobstate_lane_prove(int64 last, Snapshot snapshot);
extern void jobstate_lane_open(JobstateLane *lane, JobstateLaneInfo *info,
							   JobstateLaneScan *scan);
extern bool jobstate_lane_next(JobstateLane *lane, JobstateLaneScan *scan);
extern void jobstate_lane_close(JobstateLane *lane, JobstateLaneScan *scan);

#endif							/* JOBSTATE_LANE_H */
