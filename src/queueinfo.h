/*
 * src/queueinfo.h
 *
 * What the queue's settings say.
 */
#ifndef JOBSTATE_QUEUEINFO_H
#define JOBSTATE_QUEUEINFO_H

#include "utils/timestamp.h"

#include "jobtable.h"

#define QUEUE_PRIORITIES	4	/* 1 is the most urgent */

typedef struct JobstateLaneInfo
{
	int16		lane;
	int16		priority;
	int16		shard;
} JobstateLaneInfo;

typedef struct JobstateQueueInfo
{
	bool		paused;
	bool		limited;
	bool		notify;
	int			shards;
	int16		max_attempts;
	Interval	lease;
	int64		aging;			/* microseconds */
	int			nlanes;
	JobstateLaneInfo *lane;		/* by priority and shard */
} JobstateQueueInfo;

extern bool jobstate_queue_read(text *queue, JobstateQueueInfo *info);
extern JobstateJobTable *jobstate_queue_open_jobs(AclMode rights);

#endif							/* JOBSTATE_QUEUEINFO_H */
