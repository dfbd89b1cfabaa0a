/*
 * src/queueinfo.c
 *
 * What the queue's settings say, read from their tables without SQL: every
 * enqueue and every claim asks.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "error.h"
#include "queueinfo.h"

/* A scan of one of the settings' tables by its primary key */
typedef struct Settings
{
	Relation	rel;
	Relation	pkey;
	Snapshot	snapshot;
	IndexScanDesc scan;
	TupleTableSlot *row;
} Settings;

/* Begins a scan of the rows whose key begins with the queue's name. */
static void
begin(Settings *settings, const char *table, text *queue, Snapshot snapshot)
{
	ScanKeyData key;

	settings->rel = table_open(jobstate_queue_relation(table), AccessShareLock);
	settings->pkey = index_open(jobstate_primary_key(settings->rel), AccessShareLock);
	settings->snapshot = RegisterSnapshot(snapshot);
	settings->row = table_slot_create(settings->rel, NULL);
	settings->scan = jobstate_index_beginscan(settings->rel, settings->pkey,
											  settings->snapshot, queue ? 1 : 0);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(queue));
	key.sk_collation = settings->pkey->rd_indcollation[0];
	index_rescan(settings->scan, queue ? &key : NULL, queue ? 1 : 0, NULL, 0);
}

static bool
next(Settings *settings)
{
	return index_getnext_slot(settings->scan, ForwardScanDirection, settings->row);
}

static void
end(Settings *settings)
{
	index_endscan(settings->scan);
	ExecDropSingleTupleTableSlot(settings->row);
	UnregisterSnapshot(settings->snapshot);
	index_close(settings->pkey, NoLock);
	table_close(settings->rel, NoLock);
}

static Datum
value(Settings *settings, const char *column, bool *isnull)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(settings->rel), column);

	if (attno <= 0)
		jobstate_error_no_column(settings->rel, column);
	return slot_getattr(settings->row, attno, isnull);
}

static bool
is_set(Settings *settings, const char *column)
{
	bool		isnull;

	(void) value(settings, column, &isnull);
	return !isnull;
}

static void
read_lanes(text *queue, JobstateQueueInfo *info)
{
	Settings	lanes;
	int			space = 8;
	bool		isnull;

	info->nlanes = 0;
	info->lane = palloc(sizeof(JobstateLaneInfo) * space);
	begin(&lanes, "queue_lane", queue, GetTransactionSnapshot());
	while (next(&lanes))
	{
		JobstateLaneInfo *lane;

		if (info->nlanes == space)
			info->lane = repalloc(info->lane, sizeof(JobstateLaneInfo) * (space *= 2));
		lane = &info->lane[info->nlanes++];
		lane->lane = DatumGetInt16(value(&lanes, "lane", &isnull));
		lane->priority = DatumGetInt16(value(&lanes, "priority", &isnull));
		lane->shard = DatumGetInt16(value(&lanes, "shard", &isnull));
	}
	end(&lanes);
}

/* Reads a queue's settings and lanes.  False: there is no such queue. */
bool
jobstate_queue_read(text *queue, JobstateQueueInfo *info)
{
	Settings	queues;
	Interval   *aging;
	bool		found;
	bool		isnull;

	begin(&queues, "queue", queue, GetTransactionSnapshot());
	found = next(&queues);
	if (found)
	{
		info->paused = is_set(&queues, "paused_at");
		info->limited = is_set(&queues, "max_running") || is_set(&queues, "max_running_per_key");
		info->notify = DatumGetBool(value(&queues, "notify", &isnull));
		info->shards = DatumGetInt16(value(&queues, "shards", &isnull));
		info->max_attempts = DatumGetInt16(value(&queues, "max_attempts", &isnull));
		info->lease = *DatumGetIntervalP(value(&queues, "lease", &isnull));
		aging = DatumGetIntervalP(value(&queues, "aging", &isnull));
		info->aging = aging->time +
			USECS_PER_DAY * (aging->day + (int64) DAYS_PER_MONTH * aging->month);
		read_lanes(queue, info);
	}
	end(&queues);
	return found;
}

/*
 * The ring, for who has the job table open: then its size stays what it is, and
 * the newest snapshot tells it also to a transaction that began before a change.
 */
static JobstateRing
read_ring(void)
{
	JobstateRing ring = {0};
	Settings	settings;
	bool		isnull;

	begin(&settings, "queue_ring", NULL, GetLatestSnapshot());
	if (!next(&settings))
		jobstate_error_no_family("queue", "queue_ring");
	ring.slots = DatumGetInt16(value(&settings, "slots", &isnull));
	ring.slot_jobs = DatumGetInt64(value(&settings, "slot_jobs", &isnull));
	end(&settings);
	return ring;
}

/* Opens the job table; the rights are the caller's on the whole of it. */
JobstateJobTable *
jobstate_queue_open_jobs(AclMode rights)
{
	JobstateJobTable *jobs = jobstate_jobs_open(rights);

	jobs->ring = read_ring();
	return jobs;
}
