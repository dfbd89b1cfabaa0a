/*
 * src/jobtable.h
 *
 * The queue's job table, as C reads and writes it.
 */
#ifndef JOBSTATE_JOBTABLE_H
#define JOBSTATE_JOBTABLE_H

#include "access/genam.h"

#include "rowwrite.h"

/* The states of the machine "job" that C writes */
#define JOB_AVAILABLE		1
#define JOB_RUNNING			2
#define JOB_COMPLETED		4

/* Partitions beside the ring */
#define JOB_SLOT_WAITING	(-1)
#define JOB_SLOT_KEPT		(-2)

/* A position is the lane's number and a number of the sequence */
#define JOB_LANE_SHIFT		48
#define JOB_NUMBER(position)	((position) & ((INT64CONST(1) << JOB_LANE_SHIFT) - 1))
#define JOB_POSITION(lane, number)	(((int64) (lane) << JOB_LANE_SHIFT) | (number))

/* The family's relations that C opens */
typedef enum JobstateQueueRelation
{
	QUEUE_JOB,
	QUEUE_JOB_NUMBER,
	QUEUE_QUEUE,
	QUEUE_LANE,
	QUEUE_RING,
	QUEUE_WINDOW,
	QUEUE_WINDOW_LANE
} JobstateQueueRelation;
#define QUEUE_RELATIONS		(QUEUE_WINDOW_LANE + 1)

/* In the order in which install_queue() makes them */
typedef enum JobColumn
{
	JOB_ID,
	JOB_POSITION_COLUMN,
	JOB_ENQUEUED_AT,
	JOB_RUN_AT,
	JOB_SLOT,
	JOB_PRIORITY,
	JOB_MAX_ATTEMPTS,
	JOB_ATTEMPT,
	JOB_STATE_ID,
	JOB_CANCEL_REQUESTED,
	JOB_FINISHED_AT,
	JOB_TOKEN,
	JOB_CLAIMED_AT,
	JOB_LEASE_UNTIL,
	JOB_WORKER,
	JOB_QUEUE,
	JOB_KIND,
	JOB_TIMEOUT,
	JOB_UNIQUE_KEY,
	JOB_LIMIT_KEY,
	JOB_PAYLOAD,
	JOB_ERRORS,
	JOB_RESULT
} JobColumn;
#define JOB_COLUMNS			(JOB_RESULT + 1)

/* How the sequence's numbers are dealt to the slots */
typedef struct JobstateRing
{
	int			slots;
	int64		slot_jobs;
} JobstateRing;

/* A partition, open */
typedef struct JobstateJobPart
{
	Relation	rel;
	AttrNumber	attno[JOB_COLUMNS];
	bool		late;			/* opened when the snapshot had been taken */

	/* made when they are needed */
	Relation	index;			/* the primary key, by position */
	JobstateRowWriter *writer;
	TupleTableSlot *new;		/* a row's new version */
} JobstateJobPart;

/* The table, open, and those of its partitions that were asked for */
typedef struct JobstateJobTable
{
	Relation	rel;
	JobstateRing ring;
	int			nslots;			/* of the ring, unused ones included */
	bool		late;			/* is what is opened from now on */
	JobstateJobPart **part;
} JobstateJobTable;

extern void jobstate_jobs_init(void);
extern uint64 jobstate_queue_generation(void);
extern Oid	jobstate_queue_relation(JobstateQueueRelation which);
extern JobstateJobTable *jobstate_jobs_open(AclMode rights);
extern JobstateJobPart *jobstate_jobs_part(JobstateJobTable *jobs, int slot);
extern void jobstate_jobs_close(JobstateJobTable *jobs);
extern Relation jobstate_job_index(JobstateJobPart *part);
extern JobstateRowWriter *jobstate_job_writer(JobstateJobPart *part);
extern int	jobstate_job_slot(JobstateRing *ring, int64 position);

extern Datum jobstate_job_value(JobstateJobPart *part, TupleTableSlot *slot,
								JobColumn column, bool *isnull);
extern void jobstate_job_copy(JobstateJobPart *part, TupleTableSlot *from);
extern void jobstate_job_set(JobstateJobPart *part, JobColumn column, Datum value);

#endif							/* JOBSTATE_JOBTABLE_H */
