/*
 * src/jobscan.h
 *
 * Rows of a partition of the job table, by position.
 */
#ifndef JOBSTATE_JOBSCAN_H
#define JOBSTATE_JOBSCAN_H

#include "access/genam.h"
#include "storage/buf.h"

#include "jobtable.h"

/* A scan of a partition, and the row that it is at */
typedef struct JobstateJobScan
{
	JobstateJobPart *part;		/* NULL: not begun */
	Snapshot	snapshot;
	IndexScanDesc index;
	Buffer		buffer;			/* the page looked at last */
	ItemPointerData root;		/* of the row's versions */
	HeapTupleData row;			/* the one that the snapshot sees */
	uint16		infomask;		/* the row's, when its page was locked */
	TransactionId xmax;			/* likewise */
	TupleTableSlot *slot;		/* the row, once it was asked for */
	TransactionId holder;		/* who held the last row that was held */
} JobstateJobScan;

extern void jobstate_job_scan_begin(JobstateJobScan *scan, JobstateJobPart *part,
									Snapshot snapshot, int64 from, int64 end);
extern bool jobstate_job_scan_next(JobstateJobScan *scan);
extern Datum jobstate_job_scan_value(JobstateJobScan *scan, JobColumn column, bool *isnull);
extern void jobstate_job_scan_make_room(JobstateJobScan *scan);
extern bool jobstate_job_scan_held(JobstateJobScan *scan);
extern TupleTableSlot *jobstate_job_scan_slot(JobstateJobScan *scan);
extern void jobstate_job_scan_end(JobstateJobScan *scan);

#endif							/* JOBSTATE_JOBSCAN_H */
