/*
 * src/limit.c
 *
 * How many jobs of a queue may run at a time, in all and of one key.
 *
 * Claimers of a limited queue take turns: each locks the queue's row, which is
 * never updated, and reads the counters in a snapshot taken after the lock.  So
 * each of them counts what those before it took, at every isolation level.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"

#include "catalog.h"
#include "limit.h"

/* The running jobs of a key.  Two keys of one hash share their limit. */
typedef struct RunningOfKey
{
	uint64		hash;			/* hash key */
	int64		n;
} RunningOfKey;

struct JobstateLimits
{
	int64		max_running;	/* PG_INT64_MAX: as many as there are */
	int64		max_per_key;
	int64		running;
	HTAB	   *of_key;
};

static int64
maximum(int column)
{
	bool		isnull;
	Datum		value = jobstate_spi_value(0, column, &isnull);

	return isnull ? PG_INT64_MAX : DatumGetInt32(value);
}

static RunningOfKey *
running_of(JobstateLimits *limits, Datum key)
{
	text	   *name = DatumGetTextPP(key);
	uint64		hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(name),
										   VARSIZE_ANY_EXHDR(name), 0);
	bool		found;
	RunningOfKey *running = hash_search(limits->of_key, &hash, HASH_ENTER, &found);

	if (!found)
		running->n = 0;
	return running;
}

/* Locks the queue and tells its limits. */
static bool
lock_queue(JobstateLimits *limits, text *queue)
{
	static SPIPlanPtr plan = NULL;
	Oid			type = TEXTOID;
	Datum		value = PointerGetDatum(queue);

	(void) jobstate_spi_plan(&plan,
							 "SELECT q.max_running, q.max_running_per_key FROM jobstate.queue q"
							 " WHERE q.queue OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE",
							 1, &type);
	if (SPI_execute_plan(plan, &value, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not lock a row of jobstate.queue");
	if (SPI_processed == 0)
		return false;
	limits->max_running = maximum(1);
	limits->max_per_key = maximum(2);
	return true;
}

static void
count_running(JobstateLimits *limits, text *queue)
{
	static SPIPlanPtr plan = NULL;
	Oid			type = TEXTOID;
	Datum		value = PointerGetDatum(queue);
	uint64		i;

	(void) jobstate_spi_plan(&plan,
							 "SELECT c.group_key OPERATOR(pg_catalog.->>) 'limit_key', c.n"
							 " FROM jobstate.counts_now('jobstate.job'::pg_catalog.regclass,"
							 " pg_catalog.jsonb_build_object('queue', $1)) c"
							 " WHERE c.state OPERATOR(pg_catalog.=) 'running'"
							 " AND c.n OPERATOR(pg_catalog.>) 0", 1, &type);
	if (SPI_execute_plan(plan, &value, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the counters of jobstate.job");
	for (i = 0; i < SPI_processed; i++)
	{
		bool		no_key;
		bool		isnull;
		Datum		key = jobstate_spi_value(i, 1, &no_key);
		int64		n = DatumGetInt64(jobstate_spi_value(i, 2, &isnull));

		limits->running += n;
		if (!no_key)
			running_of(limits, key)->n += n;
	}
}

/* The limits of a queue and what they leave.  Others wait until commit. */
JobstateLimits *
jobstate_limits_read(text *queue)
{
	JobstateLimits *limits = palloc0(sizeof(JobstateLimits));
	HASHCTL		ctl;

	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(RunningOfKey);
	ctl.hcxt = CurrentMemoryContext;
	limits->of_key = hash_create("jobstate limits", 64, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	jobstate_spi_connect();
	if (lock_queue(limits, queue))
		count_running(limits, queue);
	jobstate_spi_finish();
	return limits;
}

bool
jobstate_limits_full(JobstateLimits *limits)
{
	return limits->running >= limits->max_running;
}

/* May one more job of the key run? */
bool
jobstate_limits_allow(JobstateLimits *limits, Datum key, bool isnull)
{
	return isnull || running_of(limits, key)->n < limits->max_per_key;
}

/* One more does. */
void
jobstate_limits_count(JobstateLimits *limits, Datum key, bool isnull)
{
	limits->running++;
	if (!isnull)
		running_of(limits, key)->n++;
}
