/*
 * src/jobtable.c
 *
 * The queue's job table, as C reads and writes it: its partitions by slot, opened
 * as they are needed, and its columns by name.
 */
#include "postgres.h"

#include "access/table.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "jobtable.h"

static const char *const column_name[JOB_COLUMNS] = {
	"id", "position", "enqueued_at", "run_at", "slot", "priority", "max_attempts",
	"attempt", "state_id", "cancel_requested", "finished_at", "token", "claimed_at",
	"lease_until", "worker", "queue", "kind", "timeout", "unique_key", "limit_key",
	"payload", "errors", "result"
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
	jobs->rel = table_open(relid, RowExclusiveLock);
	jobstate_rows_refuse_triggers(jobs->rel);
	jobs->nslots = greatest_slot(jobs->rel) + 1;
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

/* Columns keep their place unless somebody altered the table. */
static AttrNumber
column_number(Relation rel, JobColumn column)
{
	TupleDesc	desc = RelationGetDescr(rel);
	AttrNumber	attno = column + 1;

	if (attno > desc->natts ||
		strcmp(NameStr(TupleDescAttr(desc, attno - 1)->attname),
			   column_name[column]) != 0)
		attno = get_attnum(RelationGetRelid(rel), column_name[column]);
	if (attno <= 0)
		jobstate_error_no_column(rel, column_name[column]);
	return attno;
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
	part->rel = table_open(partition_of(jobs, slot), RowExclusiveLock);
	for (i = 0; i < JOB_COLUMNS; i++)
		part->attno[i] = column_number(part->rel, i);
	*place = part;
	return part;
}

Relation
jobstate_job_index(JobstateJobPart *part)
{
	if (part->index == NULL)
		part->index = index_open(jobstate_primary_key(part->rel), RowExclusiveLock);
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
