/*
 * src/flush.c
 *
 * The tally goes to the log, before commit and before prepare.
 *
 * Problem: counters that many transactions change make them wait for each
 * other, and in the wrong order deadlock.
 * Solution: one row per touched key is appended, in the order of (table, key),
 * after the transaction's last statement and its deferred triggers, to a
 * segment that can be locked without waiting.  So nothing is locked that
 * another writer could want, and no writer ever stands behind a counter.
 * Non-problems: an error here aborts the transaction like any error in a
 * statement does.  Rights are not needed: the rows go to the table access
 * method, not through the executor.  A transaction that was set READ ONLY
 * after it wrote still writes its counts: they belong to what it wrote.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"

#include "catalog.h"
#include "compat.h"
#include "flush.h"
#include "log.h"
#include "maintain.h"
#include "tally.h"

static int
compare_tallies(const void *a, const void *b)
{
	const JobstateTally *x = *(JobstateTally *const *) a;
	const JobstateTally *y = *(JobstateTally *const *) b;

	if (x->attachment->target != y->attachment->target)
		return x->attachment->target < y->attachment->target ? -1 : 1;
	if (x->prefix != y->prefix)
		return x->prefix < y->prefix ? -1 : 1;
	return jobstate_key_compare(x->text, y->text);
}

/* Writes what is pending.  Returns whether a segment is full now. */
static bool
flush(void)
{
	JobstateTally **tally;
	int			ntallies = jobstate_tally_set_list(jobstate_tally_pending(), &tally);
	JobstateLogRow *row = MemoryContextAllocHuge(CurrentMemoryContext,
												  sizeof(JobstateLogRow) * ntallies);
	bool		full = false;
	int			i;

	if (ntallies > 1)
		qsort(tally, ntallies, sizeof(JobstateTally *), compare_tallies);
	for (i = 0; i < ntallies; i++)
	{
		row[i].epoch = tally[i]->attachment->epoch;
		row[i].hash = tally[i]->hash;
		row[i].key = tally[i]->text;
		row[i].deltas = jobstate_deltas_to_text(&tally[i]->deltas);
	}
	if (ntallies > 0)
		full = jobstate_log_append(row, ntallies);
	pfree(row);
	pfree(tally);
	return full;
}

/*
 * Makes room in memory.  The rows are this transaction's like any others, so
 * its abort takes them back; the caller sees to it that no savepoint must.
 */
void
jobstate_flush_early(void)
{
	Assert(GetCurrentTransactionNestLevel() == 1);
	(void) flush();
	jobstate_tally_forget();
}

static void
AtPreCommit_flush(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE)
		return;
	if (jobstate_tally_pending() == NULL)
		return;

	/* statement_timeout does not reach here after an implicit transaction */
	CHECK_FOR_INTERRUPTS();
	JOBSTATE_INSTANT("flush-begin");
	if (jobstate_catalog_exists() && flush())
		jobstate_maintain_wanted();
	jobstate_tally_forget();
	JOBSTATE_INSTANT("flush-end");
}

void
jobstate_flush_init(void)
{
	RegisterXactCallback(AtPreCommit_flush, NULL);
}
