/*
 * src/counts.c
 *
 * What the counters say: base + all segments + this transaction's own.
 *
 * Problem: a fold moves rows from a segment to the base and truncates the
 * segment.  A snapshot older than the fold sees neither.
 * Solution: first lock everything, so that no fold is halfway; then take the
 * newest snapshot.  Every fold leaves a header row in the base.  A header that
 * the newest snapshot sees and the reader's does not tells that the reader's
 * is older than a fold.  Under READ COMMITTED the newest snapshot answers
 * then; a transaction that must keep its snapshot counts the table's rows.  So
 * it does after a fold or a count of its own: these see more than its snapshot.
 * The locks go when the answer is there, not with the transaction, so that no
 * open transaction keeps the fold away.
 * On a standby, where they may be long in coming, the rows are counted instead.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/xlog.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "attachmentrow.h"
#include "catalog.h"
#include "counts.h"
#include "error.h"

PG_FUNCTION_INFO_V1(jobstate_counts);
PG_FUNCTION_INFO_V1(jobstate_counts_now);
PG_FUNCTION_INFO_V1(jobstate_counted);
PG_FUNCTION_INFO_V1(jobstate_rows_now);

/* So many milliseconds a reader on a standby waits for the replay of a fold */
#define STANDBY_TRIES	250

typedef struct Reading
{
	/* what is wanted */
	int64		epoch;
	bool		one_hash;
	uint32		hash;
	bool		keep;			/* the answer must be the snapshot's */

	/* what was found */
	bool		counted;
	bool		stale;
	JobstateSums *sums;
} Reading;

/* Who may count the rows may read the counts. */
void
jobstate_counts_check_rights(Oid target)
{
	AclResult	result = pg_class_aclcheck(target, GetUserId(), ACL_SELECT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, get_rel_name(target));
	if (check_enable_rls(target, InvalidOid, true) == RLS_ENABLED)
		jobstate_error_row_security(target);
}

static void
visit(JobstateLogRow *row, bool visible, void *arg)
{
	Reading    *reading = arg;

	if (row->epoch == JOBSTATE_EPOCH_HEADER)
	{
		if (!visible || (row->own && reading->keep))
			reading->stale = true;
		return;
	}
	if (!visible || row->epoch != reading->epoch)
		return;
	if (jobstate_log_is_marker(row))
		reading->counted |= !(row->own && reading->keep);
	else if (!reading->one_hash || row->hash == reading->hash)
		jobstate_sums_add_row(reading->sums, row);
}

static void
read_settled(JobstateCatalog *catalog, int which, Reading *reading,
			 Snapshot snapshot)
{
	Relation	rel = table_open(catalog->settled[which], NoLock);
	Relation	index = index_open(catalog->settled_key[which], AccessShareLock);
	uint32		marker = 0;

	if (RelationGetNumberOfBlocks(rel) > 0)
	{
		jobstate_log_scan_key(rel, index, &reading->epoch,
							  reading->one_hash ? &reading->hash : NULL,
							  snapshot, visit, reading);
		if (reading->one_hash && reading->hash != marker && !reading->counted)
			jobstate_log_scan_key(rel, index, &reading->epoch, &marker,
								  snapshot, visit, reading);
	}
	index_close(index, AccessShareLock);
	table_close(rel, NoLock);
}

static void
read_all(JobstateCatalog *catalog, Reading *reading, Snapshot snapshot,
		 Snapshot newest)
{
	Relation	rel;
	int			i;

	rel = table_open(catalog->recent, NoLock);
	jobstate_log_scan(rel, &reading->epoch, snapshot, newest, visit, reading);
	table_close(rel, NoLock);
	if (reading->stale)
		return;
	for (i = 0; i < 2; i++)
		read_settled(catalog, i, reading, snapshot);
	for (i = 0; i < JOBSTATE_SEGMENTS; i++)
	{
		rel = table_open(catalog->segment[i], NoLock);
		jobstate_log_scan(rel, &reading->epoch, snapshot, NULL, visit, reading);
		table_close(rel, NoLock);
	}
}

#define LOG_TABLES	(JOBSTATE_SEGMENTS + 3)

/* In the order in which a fold locks them */
static void
list_log(const JobstateCatalog *catalog, Oid *relid)
{
	memcpy(relid, catalog->segment, sizeof(catalog->segment));
	memcpy(relid + JOBSTATE_SEGMENTS, catalog->settled, sizeof(catalog->settled));
	relid[LOG_TABLES - 1] = catalog->recent;
}

static void
unlock_log(const Oid *relid, int n)
{
	while (n > 0)
		UnlockRelationOid(relid[--n], AccessShareLock);
}

static bool
try_to_lock_log(const Oid *relid)
{
	int			i;

	for (i = 0; i < LOG_TABLES; i++)
		if (!ConditionalLockRelationOid(relid[i], AccessShareLock))
		{
			unlock_log(relid, i);
			return false;
		}
	return true;
}

/*
 * Locks everything that a fold moves rows between, unless it takes too long.
 * Problem: on a standby the replay holds a fold's locks and goes on with what
 * others wrote.  Where that removes row versions which the reader's statement
 * might see it waits for the reader, and the server does not notice that the
 * reader waits for it, until max_standby_streaming_delay is over.
 * Solution: there nobody waits long, and none while holding some of the locks.
 */
static bool
lock_log(const Oid *relid)
{
	int			i;

	if (!RecoveryInProgress())
	{
		for (i = 0; i < LOG_TABLES; i++)
			LockRelationOid(relid[i], AccessShareLock);
		return true;
	}
	for (i = 0; i < STANDBY_TRIES; i++)
	{
		if (try_to_lock_log(relid))
			return true;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}
	return false;
}

/* The snapshot, but seeing all that this transaction wrote to the log. */
static SnapshotData
with_own_rows(Snapshot snapshot)
{
	SnapshotData copy = *snapshot;

	copy.curcid = InvalidCommandId;
	return copy;
}

/* With the log locked: reads it, by the newest snapshot where that is allowed and needed. */
static void
read_log(JobstateCatalog *catalog, Reading *reading, Snapshot snapshot, Snapshot newest)
{
	SnapshotData latest = with_own_rows(newest);
	SnapshotData wanted = with_own_rows(snapshot ? snapshot : newest);

	read_all(catalog, reading, &wanted, &latest);
	if (reading->stale && !reading->keep)
	{
		jobstate_sums_reset(reading->sums);
		reading->stale = reading->counted = false;
		read_all(catalog, reading, &latest, &latest);
	}
}

/*
 * Reads the counters under the snapshot, or under the newest one where none is
 * given.  Where newest is not NULL the newest snapshot is handed out,
 * registered, so that the caller can count the rows that it sees.  Own pending
 * changes are not included.
 */
JobstateReading
jobstate_counts_read(JobstateAttachment *attachment, JobstateFilter *filter,
					 Snapshot snapshot, Snapshot *newest, JobstateSums *sums)
{
	JobstateCatalog catalog = *jobstate_catalog();
	Reading		reading = {attachment->epoch};
	Oid			log[LOG_TABLES];
	bool		locked;
	Snapshot	registered;

	reading.sums = sums;
	reading.keep = snapshot != NULL && IsolationUsesXactSnapshot();
	if (filter != NULL &&
		filter->given == (1u << attachment->key.ncolumns) - 1)
	{
		reading.one_hash = true;
		reading.hash = jobstate_key_hash(&attachment->key, &filter->key);
	}

	list_log(&catalog, log);
	locked = lock_log(log);
	registered = RegisterSnapshot(GetLatestSnapshot());
	if (locked)
	{
		read_log(&catalog, &reading, snapshot, registered);
		unlock_log(log, LOG_TABLES);
	}

	if (newest != NULL)
		*newest = registered;
	else
		UnregisterSnapshot(registered);
	if (!locked || reading.stale)
		return JOBSTATE_READ_STALE;
	return reading.counted ? JOBSTATE_READ_COUNTED : JOBSTATE_READ_UNCOUNTED;
}

/* Adds what this transaction changed and has not written to the log yet. */
void
jobstate_counts_add_pending(JobstateAttachment *attachment, JobstateSums *sums)
{
	JobstateTally **tally;
	int			n;
	int			i;

	if (jobstate_tally_pending() == NULL)
		return;
	n = jobstate_tally_set_list(jobstate_tally_pending(), &tally);
	for (i = 0; i < n; i++)
		if (tally[i]->attachment->epoch == attachment->epoch)
			jobstate_sums_add_tally(sums, tally[i]);
}

/*
 * The TRUNCATE of a partition, unlike that of a whole table, begins no epoch:
 * a transaction that keeps its snapshot must look whether there was one.
 */
static bool
may_read_counters(JobstateAttachment *attachment, Snapshot snapshot)
{
	if (!IsolationUsesXactSnapshot())
		return true;
	if (jobstate_tally_was_truncated(attachment))
		return false;
	return get_rel_relkind(attachment->target) != RELKIND_PARTITIONED_TABLE ||
		!jobstate_was_rewritten(attachment->target, snapshot);
}

/* The exact counts as the active snapshot sees them, the fast way if it can. */
void
jobstate_counts_exact(JobstateAttachment *attachment, JobstateFilter *filter,
					  JobstateSums *sums)
{
	Snapshot	snapshot = GetActiveSnapshot();

	if (may_read_counters(attachment, snapshot) &&
		jobstate_counts_read(attachment, filter, snapshot, NULL,
							 sums) == JOBSTATE_READ_COUNTED)
	{
		jobstate_counts_add_pending(attachment, sums);
		return;
	}
	jobstate_sums_reset(sums);
	if (IsolationUsesXactSnapshot() &&
		jobstate_was_rewritten(attachment->target, snapshot))
		jobstate_error_snapshot_truncated(attachment->target);
	(void) jobstate_recount(attachment, attachment->target, filter, snapshot, sums);
}

static bool
passes(JobstateAttachment *attachment, JobstateFilter *filter,
	   JobstateKeyValues *key)
{
	int			i;

	for (i = 0; i < attachment->key.ncolumns; i++)
	{
		JobstateKeyColumn *column = &attachment->key.column[i];

		if ((filter->given & (1u << i)) == 0)
			continue;
		if (key->isnull[i] != filter->key.isnull[i])
			return false;
		if (!key->isnull[i] &&
			!DatumGetBool(FunctionCall2Coll(&column->typcache->eq_opr_finfo,
											column->collation, key->value[i],
											filter->key.value[i])))
			return false;
	}
	return true;
}

/*
 * Brings the spellings of one value together, and leaves out what the filter
 * does not want.  Results that share one set of spellings can be compared by
 * their stored key.
 */
JobstateSums *
jobstate_counts_merge(JobstateAttachment *attachment, JobstateTallySet *spelling,
					  JobstateFilter *filter, JobstateSums *sums)
{
	JobstateSums *merged;
	JobstateSum **sum;
	int			n;
	int			i;

	if (attachment->key.textual && filter == NULL)
		return sums;
	merged = jobstate_sums_create(CurrentMemoryContext);
	n = jobstate_sums_list(sums, &sum);
	for (i = 0; i < n; i++)
	{
		JobstateKeyValues key;
		JobstateTally *tally;
		JobstateSum *into;

		jobstate_key_from_text(&attachment->key, sum[i]->key, &key);
		if (filter != NULL && !passes(attachment, filter, &key))
			continue;
		tally = jobstate_tally_set_find(spelling, attachment, &key);
		into = jobstate_sums_find(merged, attachment->epoch, tally->hash, tally->text);
		jobstate_sums_add(into, &sum[i]->deltas, 1);
	}
	return merged;
}

/* A count, which is never negative unless something is broken. */
int64
jobstate_counts_checked(JobstateAttachment *attachment, JobstateSum *sum, int state)
{
	JobstateState *which = &attachment->machine->state[state];
	int64		n = jobstate_sums_get(sum, which->id);

	if (n < 0)
	{
		Jsonb	   *group = jobstate_key_to_jsonb(&attachment->key, sum->key);

		jobstate_error_negative(attachment,
								JsonbToCString(NULL, &group->root, VARSIZE(group)),
								which->name, n);
	}
	return n;
}

/*
 * A group that is asked for by all its columns is in the answer even if nobody
 * ever saw it, and so is the only group of a table that has no columns.
 */
void
jobstate_counts_add_asked(JobstateAttachment *attachment, JobstateFilter *filter,
						  JobstateTallySet *spelling, JobstateSums *sums)
{
	JobstateKeyValues none = {{0}};
	JobstateTally *tally;

	if (attachment->key.ncolumns > 0 &&
		(filter == NULL || filter->given != (1u << attachment->key.ncolumns) - 1))
		return;
	tally = jobstate_tally_set_find(spelling, attachment,
									filter ? &filter->key : &none);
	jobstate_sums_find(sums, attachment->epoch, tally->hash,
					   tally->text)->asked = true;
}

/* One row per state of the machine. */
static void
put_group(ReturnSetInfo *rsinfo, JobstateAttachment *attachment, JobstateSum *sum)
{
	JobstateMachine *machine = attachment->machine;
	Jsonb	   *group = jobstate_key_to_jsonb(&attachment->key, sum->key);
	int			i;

	for (i = 0; i < machine->nstates; i++)
	{
		Datum		values[3];
		bool		nulls[3] = {false};

		values[0] = JsonbPGetDatum(group);
		values[1] = CStringGetTextDatum(machine->state[i].name);
		values[2] = Int64GetDatum(jobstate_counts_checked(attachment, sum, i));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/*
 * The arguments (target regclass, group_key jsonb), and may the caller ask?
 * Then goes on as the table's owner: what follows runs code of its types.
 */
JobstateAttachment *
jobstate_counts_arguments(FunctionCallInfo fcinfo, JobstateFilter **filter,
						  JobstateRole *role)
{
	JobstateAttachment *attachment;

	if (PG_ARGISNULL(0))
		jobstate_error_null("target");
	attachment = jobstate_attachment(PG_GETARG_OID(0));
	jobstate_counts_check_rights(attachment->target);
	*role = jobstate_become(jobstate_owner_of(attachment->target));
	*filter = NULL;
	if (!PG_ARGISNULL(1))
	{
		*filter = palloc0(sizeof(JobstateFilter));
		(*filter)->given = jobstate_key_from_jsonb(&attachment->key,
												   PG_GETARG_JSONB_P(1),
												   attachment->target,
												   &(*filter)->key);
	}
	return attachment;
}

/* How exact counts are read: as the active snapshot sees them, or the newest */
typedef void (*CountsReader) (JobstateAttachment *attachment,
							  JobstateFilter *filter, JobstateSums *sums);

static void
return_counts(FunctionCallInfo fcinfo, CountsReader read)
{
	JobstateTallySet *spelling = jobstate_tally_set_create(CurrentMemoryContext);
	JobstateSums *sums = jobstate_sums_create(CurrentMemoryContext);
	JobstateAttachment *attachment;
	JobstateFilter *filter;
	JobstateRole role;
	JobstateSum **sum;
	int			n;
	int			i;

	InitMaterializedSRF(fcinfo, 0);
	attachment = jobstate_counts_arguments(fcinfo, &filter, &role);
	read(attachment, filter, sums);
	sums = jobstate_counts_merge(attachment, spelling, filter, sums);
	jobstate_counts_add_asked(attachment, filter, spelling, sums);
	n = jobstate_sums_list(sums, &sum);
	for (i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (sum[i]->asked || !jobstate_sums_is_zero(sum[i]))
			put_group((ReturnSetInfo *) fcinfo->resultinfo, attachment, sum[i]);
	}
	jobstate_return(role);
}

/* counts(target, group_key) returns setof (group_key, state, n) */
Datum
jobstate_counts(PG_FUNCTION_ARGS)
{
	return_counts(fcinfo, jobstate_counts_exact);
	return (Datum) 0;
}

/* What everybody has committed by now, and this transaction has done */
static void
counts_newest(JobstateAttachment *attachment, JobstateFilter *filter, JobstateSums *sums)
{
	Snapshot	newest;

	if (jobstate_counts_read(attachment, filter, NULL, &newest,
							 sums) == JOBSTATE_READ_COUNTED)
		jobstate_counts_add_pending(attachment, sums);
	else
	{
		jobstate_sums_reset(sums);
		(void) jobstate_recount(attachment, attachment->target, filter, newest, sums);
	}
	UnregisterSnapshot(newest);
}

/* counts_now(target, group_key), for who decides under a lock taken before */
Datum
jobstate_counts_now(PG_FUNCTION_ARGS)
{
	return_counts(fcinfo, counts_newest);
	return (Datum) 0;
}

/* counted(target regclass) returns boolean: are there counters to read? */
Datum
jobstate_counted(PG_FUNCTION_ARGS)
{
	JobstateSums *sums = jobstate_sums_create(CurrentMemoryContext);

	if (!jobstate_attachment_is_sound(PG_GETARG_OID(0)))
		PG_RETURN_NULL();
	PG_RETURN_BOOL(jobstate_counts_read(jobstate_attachment(PG_GETARG_OID(0)),
										NULL, NULL, NULL,
										sums) != JOBSTATE_READ_UNCOUNTED);
}

/*
 * rows_now(target, state) returns bigint: the rows in a state as the newest
 * snapshot sees them, for who has locked writers out and must not miss one.
 */
Datum
jobstate_rows_now(PG_FUNCTION_ARGS)
{
	JobstateAttachment *attachment = jobstate_attachment(PG_GETARG_OID(0));
	JobstateSums *sums = jobstate_sums_create(CurrentMemoryContext);
	JobstateRole role = jobstate_become(jobstate_owner_of(attachment->target));
	JobstateSum **sum;
	int64		rows = 0;
	int			n;
	int			i;

	counts_newest(attachment, NULL, sums);
	n = jobstate_sums_list(sums, &sum);
	for (i = 0; i < n; i++)
		rows += jobstate_sums_get(sum[i], PG_GETARG_INT16(1));
	jobstate_return(role);
	PG_RETURN_INT64(rows);
}
