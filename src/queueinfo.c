/*
 * src/queueinfo.c
 *
 * What the queue's settings say: every enqueue and every claim asks, so it is
 * read without SQL, and kept until it changes.
 *
 * Each of the settings' tables has a trigger that tells every backend of a
 * change by a relcache invalidation, which is sent before the change's COMMIT
 * returns.  Where the trigger is missing or off nothing is kept.
 * Problem: what an old snapshot read must not be kept, for the news of what it
 * misses may have come already.
 * Solution: settings are read in a snapshot that is newer than every invalidation
 * accepted so far.  They count as they are now, in every transaction.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "error.h"
#include "familytable.h"
#include "queueinfo.h"

PG_FUNCTION_INFO_V1(jobstate_queue_changed);

/* Of the triggers that tell of a change */
#define CHANGED_TRIGGER	"changed"

/* A queue's settings.  A second queue of the same hash takes the first one's place. */
typedef struct KnownQueue
{
	uint64		hash;			/* hash key */
	text	   *queue;
	JobstateQueueInfo info;
} KnownQueue;

/* What is kept was read when the relations were of this generation. */
static uint64 known_generation = 0;
static MemoryContext known_context = NULL;
static HTAB *known_queues = NULL;
static JobstateRing known_ring;	/* no slots: not known */

/* A scan of one of the settings' tables by its primary key */
typedef struct Settings
{
	Relation	rel;
	Relation	pkey;
	IndexScanDesc scan;
	TupleTableSlot *row;
} Settings;

/* Begins a scan of the rows whose key begins with the queue's name. */
static void
begin(Settings *settings, JobstateQueueRelation table, text *queue, Snapshot snapshot)
{
	static const JobstateColumn name = {"queue", TEXTOID, 1};
	ScanKeyData key;

	settings->rel = jobstate_family_table_open(jobstate_queue_relation(table), AccessShareLock);
	settings->pkey = jobstate_family_key_open(settings->rel,
											  queue ? jobstate_family_column(settings->rel, &name) : 0,
											  AccessShareLock);
	settings->row = table_slot_create(settings->rel, NULL);
	settings->scan = jobstate_index_beginscan(settings->rel, settings->pkey,
											  snapshot, queue ? 1 : 0);
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
	index_close(settings->pkey, NoLock);
	table_close(settings->rel, NoLock);
}

/* A setting that there always is */
static Datum
value(Settings *settings, const char *name, Oid type)
{
	JobstateColumn column = {name, type, 0};
	bool		isnull;
	Datum		found = slot_getattr(settings->row,
									 jobstate_family_column(settings->rel, &column), &isnull);

	if (isnull)
		jobstate_error_column_null(settings->rel, name);
	return found;
}

/* One that is divided by */
static int64
divisor(Settings *settings, const char *name, Oid type)
{
	Datum		found = value(settings, name, type);
	int64		number = type == INT2OID ? DatumGetInt16(found) : DatumGetInt64(found);

	if (number <= 0)
		jobstate_error_column_not_positive(settings->rel, name);
	return number;
}

static bool
is_set(Settings *settings, const char *name)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(settings->rel), name);

	if (attno <= 0)
		jobstate_error_no_column(settings->rel, name);
	return !slot_attisnull(settings->row, attno);
}

/* Will the table's trigger tell us of a change? */
static bool
tells(Settings *settings)
{
	TriggerDesc *triggers = settings->rel->trigdesc;
	int			i;

	for (i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (strcmp(triggers->triggers[i].tgname, CHANGED_TRIGGER) == 0)
			return triggers->triggers[i].tgenabled == TRIGGER_FIRES_ALWAYS;
	return false;
}

/* The trigger "changed" on each of the settings' tables */
Datum
jobstate_queue_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		jobstate_error_trigger_protocol("queue_changed");
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}

/* Accepts what others tell, and forgets what may have changed. */
static void
listen(void)
{
	HASHCTL		ctl;

	AcceptInvalidationMessages();
	if (known_context != NULL && known_generation == jobstate_queue_generation())
		return;
	if (known_context == NULL)
		known_context = AllocSetContextCreate(TopMemoryContext, "jobstate queues",
											  ALLOCSET_SMALL_SIZES);
	MemoryContextReset(known_context);
	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(KnownQueue);
	ctl.hcxt = known_context;
	known_queues = hash_create("jobstate queues", 16, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	known_ring.slots = 0;
	known_generation = jobstate_queue_generation();
}

static uint64
hash_of(text *queue)
{
	return hash_bytes_extended((unsigned char *) VARDATA_ANY(queue),
							   VARSIZE_ANY_EXHDR(queue), 0);
}

static bool
same_text(text *a, text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/* Copies settings to the current memory context. */
static void
copy_info(JobstateQueueInfo *to, JobstateQueueInfo *from)
{
	Size		size = sizeof(JobstateLaneInfo) * from->nlanes;

	*to = *from;
	to->lane = palloc(size);
	memcpy(to->lane, from->lane, size);
}

static bool
recall(text *queue, JobstateQueueInfo *info)
{
	uint64		hash = hash_of(queue);
	KnownQueue *known = hash_search(known_queues, &hash, HASH_FIND, NULL);

	if (known == NULL || known->queue == NULL || !same_text(known->queue, queue))
		return false;
	copy_info(info, &known->info);
	return true;
}

static void
remember(text *queue, JobstateQueueInfo *info)
{
	MemoryContext before = MemoryContextSwitchTo(known_context);
	uint64		hash = hash_of(queue);
	bool		found;
	KnownQueue *known = hash_search(known_queues, &hash, HASH_ENTER, &found);

	known->queue = NULL;		/* until it is whole */
	copy_info(&known->info, info);
	known->queue = (text *) DatumGetPointer(datumCopy(PointerGetDatum(queue), false, -1));
	MemoryContextSwitchTo(before);
}

/* Returns whether a change of them will be told. */
static bool
read_lanes(text *queue, JobstateQueueInfo *info, Snapshot snapshot)
{
	Settings	lanes;
	int			space = 8;
	bool		told;

	info->nlanes = 0;
	info->lane = palloc(sizeof(JobstateLaneInfo) * space);
	begin(&lanes, QUEUE_LANE, queue, snapshot);
	while (next(&lanes))
	{
		JobstateLaneInfo *lane;

		if (info->nlanes == space)
			info->lane = repalloc(info->lane, sizeof(JobstateLaneInfo) * (space *= 2));
		lane = &info->lane[info->nlanes++];
		lane->lane = DatumGetInt16(value(&lanes, "lane", INT2OID));
		lane->priority = DatumGetInt16(value(&lanes, "priority", INT2OID));
		lane->shard = DatumGetInt16(value(&lanes, "shard", INT2OID));
	}
	told = tells(&lanes);
	end(&lanes);
	return told;
}

static void
read_row(Settings *queues, JobstateQueueInfo *info)
{
	Interval   *aging;

	info->paused = is_set(queues, "paused_at");
	info->limited = is_set(queues, "max_running") || is_set(queues, "max_running_per_key");
	info->notify = DatumGetBool(value(queues, "notify", BOOLOID));
	info->shards = divisor(queues, "shards", INT2OID);
	info->max_attempts = DatumGetInt16(value(queues, "max_attempts", INT2OID));
	info->lease = *DatumGetIntervalP(value(queues, "lease", INTERVALOID));
	aging = DatumGetIntervalP(value(queues, "aging", INTERVALOID));
	info->aging = aging->time +
		USECS_PER_DAY * (aging->day + (int64) DAYS_PER_MONTH * aging->month);
}

/* Reads a queue's settings and lanes.  False: there is no such queue. */
bool
jobstate_queue_read(text *queue, JobstateQueueInfo *info)
{
	Settings	queues;
	Snapshot	snapshot;
	bool		found;
	bool		told = false;

	listen();
	if (recall(queue, info))
		return true;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	begin(&queues, QUEUE_QUEUE, queue, snapshot);
	found = next(&queues);
	if (found)
	{
		read_row(&queues, info);
		told = read_lanes(queue, info, snapshot) && tells(&queues);
	}
	end(&queues);
	UnregisterSnapshot(snapshot);
	if (told && known_generation == jobstate_queue_generation())
		remember(queue, info);
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
	Snapshot	snapshot;

	listen();
	if (known_ring.slots > 0)
		return known_ring;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	begin(&settings, QUEUE_RING, NULL, snapshot);
	if (!next(&settings))
		jobstate_error_no_family("queue", "queue_ring");
	ring.slots = divisor(&settings, "slots", INT2OID);
	ring.slot_jobs = divisor(&settings, "slot_jobs", INT8OID);
	if (tells(&settings) && known_generation == jobstate_queue_generation())
		known_ring = ring;
	end(&settings);
	UnregisterSnapshot(snapshot);
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
