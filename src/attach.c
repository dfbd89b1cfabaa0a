/*
 * src/attach.c
 *
 * Putting a table under watch, and keeping its counters its own.
 *
 * A table's counters are the log rows of its epoch, and are valid once a
 * marker row of that epoch is there.  Until then the table is uncounted:
 * counts() scans it, and writers already append their changes.  Counting it is
 * one append:
 *
 *     what a snapshot sees in the table  -  what it sees in the log
 *
 * and the marker.  That is exact, without keeping writers out, if every writer
 * that the snapshot does not see appends to this very epoch.
 * Problem: a writer that was at work when the epoch began may still append to
 * the one before.
 * Solution: attach() and rebuild() begin the epoch under a lock that keeps
 * writers out until they commit.  recount() finds an epoch that has begun
 * earlier, waits for those who are writing at that moment, and takes its
 * snapshot after.
 *
 * Lock order: the table and its partitions, then the catalogue row, then the
 * log.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "attach.h"
#include "attachmentrow.h"
#include "catalog.h"
#include "compat.h"
#include "counts.h"
#include "error.h"

PG_FUNCTION_INFO_V1(jobstate_attach);
PG_FUNCTION_INFO_V1(jobstate_detach);
PG_FUNCTION_INFO_V1(jobstate_rebuild);
PG_FUNCTION_INFO_V1(jobstate_recount_uncounted);
PG_FUNCTION_INFO_V1(jobstate_validate);

#define APPEND_BATCH		10000

/* Locks the table and then all below it. */
static List *
lock_all(Oid target, LOCKMODE mode)
{
	LockRelationOid(target, mode);
	return find_all_inheritors(target, mode, NULL);
}

void
jobstate_require_owner(Oid relid)
{
	if (get_rel_name(relid) == NULL)
		jobstate_error_no_table(relid);
	if (!jobstate_owns_table(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(relid));
}

static void
execute(const char *sql, int expected)
{
	jobstate_spi_connect();
	if (SPI_execute(sql, false, 0) != expected)
		elog(ERROR, "could not execute \"%s\"", sql);
	jobstate_spi_finish();
}

static void
require_watchable_one(Oid relid)
{
	Relation	rel = try_table_open(relid, AccessShareLock);

	if (rel == NULL)
		jobstate_error_no_table(relid);
	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		jobstate_error_wrong_kind(rel);
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		jobstate_error_wrong_persistence(rel);
	table_close(rel, NoLock);
}

/* Can this table be watched at all, with each of its partitions? */
static void
require_watchable(Oid relid)
{
	ListCell   *cell;

	require_watchable_one(relid);
	foreach(cell, lock_all(relid, AccessShareLock))
		if (get_rel_relispartition(lfirst_oid(cell)))
			require_watchable_one(lfirst_oid(cell));
}

static void
require_unattached(Oid target)
{
	ListCell   *cell;
	Oid			root = jobstate_attached_root(target);

	if (OidIsValid(root))
		jobstate_error_attached(target, root);
	foreach(cell, find_all_inheritors(target, NoLock, NULL))
		if (jobstate_attachment_if_any(lfirst_oid(cell)) != NULL &&
			get_rel_relispartition(lfirst_oid(cell)))
			jobstate_error_attached(lfirst_oid(cell), lfirst_oid(cell));
}

/* No column twice, and the state column not among the groups */
static void
require_distinct(const char *state_column, ArrayType *group_by)
{
	Datum	   *names;
	int			n;
	int			i;
	int			j;

	deconstruct_array(group_by, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR,
					  &names, NULL, &n);
	for (i = 0; i < n; i++)
	{
		const char *name = NameStr(*DatumGetName(names[i]));

		if (strcmp(name, state_column) == 0)
			jobstate_error_column_twice(name);
		for (j = 0; j < i; j++)
			if (strcmp(name, NameStr(*DatumGetName(names[j]))) == 0)
				jobstate_error_column_twice(name);
	}
}

/* What was rolled up must still fit the groups. */
static void
require_same_groups(Oid target, ArrayType *group_by)
{
	Oid			types[] = {OIDOID, NAMEARRAYOID};
	Datum		values[2];
	JobstateRole role = jobstate_become(jobstate_catalog()->owner);

	values[0] = ObjectIdGetDatum(target);
	values[1] = PointerGetDatum(group_by);
	jobstate_spi_connect();
	if (SPI_execute_with_args("SELECT FROM jobstate.rollup"
							  " WHERE target OPERATOR(pg_catalog.=) $1 AND NOT"
							  " (group_key OPERATOR(pg_catalog.?&) $2::pg_catalog.text[]"
							  " AND group_key OPERATOR(pg_catalog.-) $2::pg_catalog.text[]"
							  " OPERATOR(pg_catalog.=) '{}'::pg_catalog.jsonb) LIMIT 1",
							  2, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the rollup");
	if (SPI_processed > 0)
		jobstate_error_rollup_by_others(target);
	jobstate_spi_finish();
	jobstate_return(role);
}

static const char *const argument_name[] = {
	"target", "machine", "state_column", "group_by"
};

/* Checks the arguments that attach() and check() share. */
static void
validate(FunctionCallInfo fcinfo)
{
	JobstateAttachment *attachment;
	ArrayType  *group_by;
	int			i;

	for (i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			jobstate_error_null(argument_name[i]);
	group_by = PG_GETARG_ARRAYTYPE_P(3);
	if (array_contains_nulls(group_by))
		jobstate_error_null("group_by");
	require_watchable(PG_GETARG_OID(0));
	require_distinct(NameStr(*PG_GETARG_NAME(2)), group_by);
	attachment = jobstate_attachment_build(PG_GETARG_OID(0),
										   text_to_cstring(PG_GETARG_TEXT_PP(1)),
										   NameStr(*PG_GETARG_NAME(2)),
										   group_by, 0);
	MemoryContextDelete(attachment->context);
	/* Nearly last, for check() looks at the rows of an attached table nevertheless. */
	require_unattached(PG_GETARG_OID(0));
	require_same_groups(PG_GETARG_OID(0), group_by);
}

static void
insert_attachment(FunctionCallInfo fcinfo)
{
	Oid			types[] = {REGCLASSOID, TEXTOID, NAMEOID, NAMEARRAYOID, INT8OID};
	Datum		values[5];
	int			i;

	for (i = 0; i < 4; i++)
		values[i] = PG_GETARG_DATUM(i);
	values[4] = Int64GetDatum(jobstate_attachment_new_epoch());
	jobstate_catalog_write("INSERT INTO jobstate.attachment VALUES ($1, $2, $3, $4, $5)",
						   5, types, values, NULL, SPI_OK_INSERT);
}

static void
create_trigger(Oid relid, const char *name, const char *event,
			   const char *level, const char *function)
{
	execute(psprintf("CREATE TRIGGER %s %s ON %s FOR EACH %s EXECUTE FUNCTION jobstate.%s()",
					 name, event, jobstate_table_name(relid), level, function),
			SPI_OK_UTILITY);
	execute(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s",
					 jobstate_table_name(relid), name), SPI_OK_UTILITY);
}

/*
 * Row triggers are cloned to partitions by the server, statement triggers are
 * not: each table that has rows gets its own.
 */
void
jobstate_attach_partition(Oid relid)
{
	ListCell   *cell;

	require_watchable(relid);
	foreach(cell, lock_all(relid, ShareRowExclusiveLock))
	{
		Oid			leaf = lfirst_oid(cell);

		if (get_rel_relkind(leaf) == RELKIND_RELATION &&
			(leaf == relid || get_rel_relispartition(leaf)) &&
			!OidIsValid(get_trigger_oid(leaf, JOBSTATE_TRUNCATE_TRIGGER, true)))
			create_trigger(leaf, JOBSTATE_TRUNCATE_TRIGGER,
						   "BEFORE TRUNCATE", "STATEMENT", "watch_truncate");
	}
}

void
jobstate_detach_partition(Oid relid)
{
	ListCell   *cell;

	foreach(cell, lock_all(relid, ShareRowExclusiveLock))
		if (OidIsValid(get_trigger_oid(lfirst_oid(cell), JOBSTATE_TRUNCATE_TRIGGER, true)))
			execute(psprintf("DROP TRIGGER %s ON %s", JOBSTATE_TRUNCATE_TRIGGER,
							 jobstate_table_name(lfirst_oid(cell))),
					SPI_OK_UTILITY);
}

/* The marker: from here on the epoch's rows are the counts. */
void
jobstate_attach_mark_counted(JobstateAttachment *attachment)
{
	JobstateLogRow row = jobstate_log_marker(attachment->epoch);

	(void) jobstate_log_append(&row, 1);
}

/* Appends the sums to the log, some at a time. */
static void
append_sums(JobstateSums *sums)
{
	JobstateLogRow *row = palloc(sizeof(JobstateLogRow) * 2 * APPEND_BATCH);
	JobstateSum **sum;
	int			nsums = jobstate_sums_list(sums, &sum);
	int			n = 0;
	int			i;

	for (i = 0; i < nsums; i++)
	{
		n += jobstate_sums_to_rows(sum[i], &row[n]);
		if (n > 0 && (n >= APPEND_BATCH || i == nsums - 1))
		{
			(void) jobstate_log_append(row, n);
			n = 0;
		}
	}
	pfree(row);
}

static void
subtract(JobstateSums *from, JobstateSums *sums)
{
	JobstateSum **sum;
	int			n = jobstate_sums_list(sums, &sum);
	int			i;

	for (i = 0; i < n; i++)
		jobstate_sums_add(jobstate_sums_find(from, sum[i]->epoch, sum[i]->hash,
											 sum[i]->key),
						  &sum[i]->deltas, -1);
}

/*
 * Counts an uncounted table; see the top of the file for what the caller has
 * seen to.  Returns the number of rows, or -1 where the table is counted.
 */
static int64
backfill(JobstateAttachment *attachment)
{
	JobstateTallySet *spelling = jobstate_tally_set_create(CurrentMemoryContext);
	JobstateSums *logged = jobstate_sums_create(CurrentMemoryContext);
	JobstateSums *actual = jobstate_sums_create(CurrentMemoryContext);
	JobstateRole role = jobstate_become(jobstate_owner_of(attachment->target));
	JobstateReading reading;
	Snapshot	snapshot;
	int64		rows = -1;

	reading = jobstate_counts_read(attachment, NULL, NULL, &snapshot, logged);
	if (reading != JOBSTATE_READ_COUNTED)
	{
		jobstate_counts_add_pending(attachment, logged);
		rows = jobstate_recount(attachment, attachment->target, NULL, snapshot, actual);
		actual = jobstate_counts_merge(attachment, spelling, NULL, actual);
		logged = jobstate_counts_merge(attachment, spelling, NULL, logged);
		subtract(actual, logged);
		JOBSTATE_INSTANT("recount-counted");
		append_sums(actual);
		jobstate_attach_mark_counted(attachment);
	}
	UnregisterSnapshot(snapshot);
	jobstate_return(role);
	return rows;
}

/* attach(target, machine, state_column, group_by) returns bigint */
Datum
jobstate_attach(PG_FUNCTION_ARGS)
{
	Oid			target;

	if (PG_ARGISNULL(0))
		jobstate_error_null("target");
	PreventCommandIfReadOnly("attach()");
	target = PG_GETARG_OID(0);
	jobstate_require_owner(target);
	(void) lock_all(target, ShareRowExclusiveLock);
	validate(fcinfo);
	insert_attachment(fcinfo);
	create_trigger(target, JOBSTATE_ROW_TRIGGER,
				   "AFTER INSERT OR UPDATE OR DELETE", "ROW", "watch");
	jobstate_attach_partition(target);
	CommandCounterIncrement();
	PG_RETURN_INT64(backfill(jobstate_attachment(target)));
}

/* validate(...) returns void: attach() up to where it would write */
Datum
jobstate_validate(PG_FUNCTION_ARGS)
{
	validate(fcinfo);
	PG_RETURN_VOID();
}

static void
delete_attachment(Oid target)
{
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(target);

	jobstate_catalog_write("DELETE FROM jobstate.attachment WHERE target OPERATOR(pg_catalog.=) $1",
						   1, &type, &value, NULL, SPI_OK_DELETE);
}

/* No state may be derived from or to a table that is let go. */
static void
require_no_derivation(Oid target)
{
	List	   *derivations = list_concat(jobstate_derivations_of_parent(target),
										  jobstate_derivations_of_child(target));

	if (derivations != NIL)
	{
		JobstateDerivation *derivation = linitial(derivations);

		jobstate_error_in_derivation(target, derivation->parent, derivation->child);
	}
}

/* detach(target) returns void; the rollup stays */
Datum
jobstate_detach(PG_FUNCTION_ARGS)
{
	JobstateAttachmentRow row;
	Oid			target;

	if (PG_ARGISNULL(0))
		jobstate_error_null("target");
	PreventCommandIfReadOnly("detach()");
	target = PG_GETARG_OID(0);
	jobstate_require_owner(target);
	(void) lock_all(target, ShareRowExclusiveLock);
	/* one that cannot be compiled any more, as its column is gone, can go */
	if (!jobstate_attachment_row(target, &row))
		(void) jobstate_attachment(target);
	require_no_derivation(target);
	delete_attachment(target);
	if (OidIsValid(get_trigger_oid(target, JOBSTATE_ROW_TRIGGER, true)))
		execute(psprintf("DROP TRIGGER %s ON %s", JOBSTATE_ROW_TRIGGER,
						 jobstate_table_name(target)), SPI_OK_UTILITY);
	jobstate_detach_partition(target);
	PG_RETURN_VOID();
}

/* Does this trigger fire whenever a client writes? */
static bool
fires(Relation rel, const char *name)
{
	int			i;

	for (i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &rel->trigdesc->triggers[i];

		if (strcmp(trigger->tgname, name) == 0 &&
			(trigger->tgenabled == TRIGGER_FIRES_ALWAYS ||
			 trigger->tgenabled == TRIGGER_FIRES_ON_ORIGIN))
			return true;
	}
	return false;
}

/* Do the triggers of this relation see every change? */
static bool
is_watched(Relation rel)
{
	return fires(rel, JOBSTATE_ROW_TRIGGER) &&
		(rel->rd_rel->relkind != RELKIND_RELATION ||
		 fires(rel, JOBSTATE_TRUNCATE_TRIGGER));
}

/* The table or partition whose changes go unseen, if any. */
static Oid
find_unwatched(Oid target)
{
	Oid			unwatched = InvalidOid;
	ListCell   *cell;

	foreach(cell, lock_all(target, AccessShareLock))
	{
		Relation	rel = table_open(lfirst_oid(cell), NoLock);

		if ((lfirst_oid(cell) == target || rel->rd_rel->relispartition) &&
			!is_watched(rel))
			unwatched = lfirst_oid(cell);
		table_close(rel, NoLock);
	}
	return unwatched;
}

/* Counting while changes go unseen would be in vain. */
static void
require_triggers(Oid target)
{
	Oid			unwatched = find_unwatched(target);

	if (OidIsValid(unwatched))
		jobstate_error_triggers_off(unwatched);
}

/* rebuild(target) returns bigint: count afresh, keeping writers out */
Datum
jobstate_rebuild(PG_FUNCTION_ARGS)
{
	Oid			target;

	if (PG_ARGISNULL(0))
		jobstate_error_null("target");
	PreventCommandIfReadOnly("rebuild()");
	target = PG_GETARG_OID(0);
	jobstate_require_owner(target);
	(void) lock_all(target, ShareRowExclusiveLock);
	(void) jobstate_attachment(target);
	require_triggers(target);
	jobstate_attachment_set_epoch(target);
	PG_RETURN_INT64(backfill(jobstate_attachment(target)));
}

static void
wait_for_writers(Oid target)
{
	List	   *tags = NIL;
	ListCell   *cell;

	foreach(cell, lock_all(target, AccessShareLock))
	{
		LOCKTAG    *tag = palloc(sizeof(LOCKTAG));

		SET_LOCKTAG_RELATION(*tag, MyDatabaseId, lfirst_oid(cell));
		tags = lappend(tags, tag);
	}
	WaitForLockersMultiple(tags, ShareLock, false);
}

/* Is the table uncounted, and would a count of it hold? */
bool
jobstate_attach_wants_recount(Oid target)
{
	JobstateSums *sums = jobstate_sums_create(CurrentMemoryContext);

	return jobstate_attachment_is_sound(target) &&
		!OidIsValid(find_unwatched(target)) &&
		jobstate_counts_read(jobstate_attachment(target), NULL, NULL, NULL,
							 sums) == JOBSTATE_READ_UNCOUNTED;
}

/* Counts a table that is uncounted; -1 where it is not, or is being counted. */
int64
jobstate_attach_recount(Oid target)
{
	JobstateAttachmentRow row;

	if (!ConditionalLockRelationOid(target, ShareUpdateExclusiveLock))
		return -1;
	(void) jobstate_attachment(target);
	require_triggers(target);
	if (jobstate_attachment_row(target, &row) && row.own_write)
		(void) lock_all(target, ShareRowExclusiveLock);
	else
		wait_for_writers(target);
	return backfill(jobstate_attachment(target));
}

/* recount(target) returns bigint */
Datum
jobstate_recount_uncounted(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		jobstate_error_null("target");
	PreventCommandIfReadOnly("recount()");
	jobstate_require_owner(PG_GETARG_OID(0));
	PG_RETURN_INT64(jobstate_attach_recount(PG_GETARG_OID(0)));
}
