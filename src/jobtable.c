/*
 * src/jobtable.c
 *
 * The queue's job table, as C reads and writes it: its partitions by slot, opened
 * as they are needed, and its columns by name.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "familytable.h"
#include "jobtable.h"

static const JobstateColumn job_column[JOB_COLUMNS] = {
	{"id", INT8OID, JOB_ID + 1},
	{"position", INT8OID, JOB_POSITION_COLUMN + 1},
	{"enqueued_at", TIMESTAMPTZOID, JOB_ENQUEUED_AT + 1},
	{"run_at", TIMESTAMPTZOID, JOB_RUN_AT + 1},
	{"slot", INT2OID, JOB_SLOT + 1},
	{"priority", INT2OID, JOB_PRIORITY + 1},
	{"max_attempts", INT2OID, JOB_MAX_ATTEMPTS + 1},
	{"attempt", INT2OID, JOB_ATTEMPT + 1},
	{"state_id", INT2OID, JOB_STATE_ID + 1},
	{"cancel_requested", BOOLOID, JOB_CANCEL_REQUESTED + 1},
	{"finished_at", TIMESTAMPTZOID, JOB_FINISHED_AT + 1},
	{"token", INT8OID, JOB_TOKEN + 1},
	{"claimed_at", TIMESTAMPTZOID, JOB_CLAIMED_AT + 1},
	{"lease_until", TIMESTAMPTZOID, JOB_LEASE_UNTIL + 1},
	{"worker", TEXTOID, JOB_WORKER + 1},
	{"queue", TEXTOID, JOB_QUEUE + 1},
	{"kind", TEXTOID, JOB_KIND + 1},
	{"timeout", INTERVALOID, JOB_TIMEOUT + 1},
	{"unique_key", TEXTOID, JOB_UNIQUE_KEY + 1},
	{"limit_key", TEXTOID, JOB_LIMIT_KEY + 1},
	{"payload", JSONBOID, JOB_PAYLOAD + 1},
	{"errors", JSONBOID, JOB_ERRORS + 1},
	{"result", JSONBOID, JOB_RESULT + 1}
};

static const char *const relation_name[QUEUE_RELATIONS] = {
	"job", "job_number", "queue", "queue_lane", "queue_ring", "queue_window",
	"queue_window_lane"
};

/* The family's relations, as far as they were looked up */
static Oid	relation[QUEUE_RELATIONS];
static uint64 generation = 1;
static uint64 relation_generation = 0;

static void
AtRelcacheInval_queue(Datum arg, Oid relid)
{
	int			i;

	if (!OidIsValid(relid))
		generation++;
	for (i = 0; OidIsValid(relid) && i < QUEUE_RELATIONS; i++)
		if (relation[i] == relid)
			generation++;
}

void
jobstate_jobs_init(void)
{
	CacheRegisterRelcacheCallback(AtRelcacheInval_queue, (Datum) 0);
}

/* Counts up whenever one of the relations, or what is kept of it, may have changed. */
uint64
jobstate_queue_generation(void)
{
	return generation;
}

/* One of the family's relations, which exist once it is installed. */
Oid
jobstate_queue_relation(JobstateQueueRelation which)
{
	if (relation_generation != generation)
		memset(relation, 0, sizeof(relation));
	relation_generation = generation;
	if (!OidIsValid(relation[which]))
	{
		Oid			relid = get_relname_relid(relation_name[which],
											  jobstate_catalog()->schema);

		if (!OidIsValid(relid))
			jobstate_error_no_family("queue", relation_name[which]);
		relation[which] = relid;
	}
	return relation[which];
}

/* A list partition's values are sorted, and ours have one each. */
static int
greatest_slot(Relation rel)
{
	PartitionBoundInfo bounds = RelationGetPartitionDesc(rel, true)->boundinfo;

	if (bounds == NULL || bounds->ndatums == 0)
		return -1;
	return DatumGetInt16(bounds->datums[bounds->ndatums - 1][0]);
}

/* Opens the job table.  How the ring deals numbers is for the caller to add. */
JobstateJobTable *
jobstate_jobs_open(AclMode rights)
{
	JobstateJobTable *jobs = palloc0(sizeof(JobstateJobTable));
	Oid			relid = jobstate_queue_relation(QUEUE_JOB);

	jobstate_rows_check_rights(relid, rights);
	jobs->rel = jobstate_slotted_table_open(relid, RowExclusiveLock);
	jobstate_rows_refuse_triggers(jobs->rel);
	jobs->nslots = Max(greatest_slot(jobs->rel), JOB_SLOT_WAITING) + 1;
	jobs->part = palloc0(sizeof(JobstateJobPart *) * (jobs->nslots - JOB_SLOT_KEPT));
	return jobs;
}

/* The partition for a slot.  Theirs is a list of one value each, in order. */
static Oid
partition_of(JobstateJobTable *jobs, int slot)
{
	PartitionDesc desc = RelationGetPartitionDesc(jobs->rel, true);
	PartitionBoundInfo bounds = desc->boundinfo;
	int			i;

	for (i = 0; bounds != NULL && i < bounds->ndatums; i++)
		if (DatumGetInt16(bounds->datums[i][0]) == slot)
			return desc->oids[bounds->indexes[i]];
	jobstate_error_no_slot(jobs->rel, slot);
}

JobstateJobPart *
jobstate_jobs_part(JobstateJobTable *jobs, int slot)
{
	JobstateJobPart **place;
	JobstateJobPart *part;
	int			i;

	if (slot < JOB_SLOT_KEPT || slot >= jobs->nslots)
		jobstate_error_no_slot(jobs->rel, slot);
	place = &jobs->part[slot - JOB_SLOT_KEPT];
	if (*place != NULL)
		return *place;
	part = palloc0(sizeof(JobstateJobPart));
	part->late = jobs->late;
	part->rel = jobstate_family_table_open(partition_of(jobs, slot), RowExclusiveLock);
	for (i = 0; i < JOB_COLUMNS; i++)
		part->attno[i] = jobstate_family_column(part->rel, &job_column[i]);
	*place = part;
	return part;
}

Relation
jobstate_job_index(JobstateJobPart *part)
{
	if (part->index == NULL)
		part->index = jobstate_family_key_open(part->rel, part->attno[JOB_POSITION_COLUMN],
											   RowExclusiveLock);
	return part->index;
}

JobstateRowWriter *
jobstate_job_writer(JobstateJobPart *part)
{
	if (part->writer == NULL)
		part->writer = jobstate_row_writer_open(part->rel);
	return part->writer;
}

static void
close_part(JobstateJobPart *part)
{
	if (part->new != NULL)
		ExecDropSingleTupleTableSlot(part->new);
	if (part->index != NULL)
		index_close(part->index, NoLock);
	if (part->writer != NULL)
		jobstate_row_writer_close(part->writer);
	table_close(part->rel, NoLock);
}

void
jobstate_jobs_close(JobstateJobTable *jobs)
{
	int			i;

	for (i = 0; i < jobs->nslots - JOB_SLOT_KEPT; i++)
		if (jobs->part[i] != NULL)
			close_part(jobs->part[i]);
	table_close(jobs->rel, NoLock);
}

/* The slot of the ring where a row of this position was inserted. */
int
jobstate_job_slot(JobstateRing *ring, int64 position)
{
	return (JOB_NUMBER(position) / ring->slot_jobs) % ring->slots;
}

Datum
jobstate_job_value(JobstateJobPart *part, TupleTableSlot *slot, JobColumn column,
				   bool *isnull)
{
	return slot_getattr(slot, part->attno[column], isnull);
}

/* Begins the new version of a row as a copy of the old one. */
void
jobstate_job_copy(JobstateJobPart *part, TupleTableSlot *from)
{
	TupleTableSlot *new;
	int			natts = RelationGetDescr(part->rel)->natts;

	if (part->new == NULL)
		part->new = table_slot_create(part->rel, NULL);
	new = part->new;
	slot_getallattrs(from);
	ExecClearTuple(new);
	memcpy(new->tts_values, from->tts_values, natts * sizeof(Datum));
	memcpy(new->tts_isnull, from->tts_isnull, natts * sizeof(bool));
	ExecStoreVirtualTuple(new);
}

void
jobstate_job_set(JobstateJobPart *part, JobColumn column, Datum value)
{
	part->new->tts_values[part->attno[column] - 1] = value;
	part->new->tts_isnull[part->attno[column] - 1] = false;
}
