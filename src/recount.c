/*
 * src/recount.c
 *
 * Counting a table's rows themselves.
 *
 * One grouped query, planned by the server, under a snapshot of the caller's
 * choice.  It runs as the table's owner with row security off: who asks has
 * been checked before, and what is counted is the table.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "error.h"
#include "recount.h"

#define FETCH	10000

int
jobstate_param(JobstateParams *params, Oid type, Datum value)
{
	params->type[params->n] = type;
	params->value[params->n] = value;
	params->null[params->n] = ' ';
	return ++params->n;
}

/*
 * Appends " AND column = $n" for each given column, with the column type's own
 * equality, whatever the search_path, so that an index can be used.
 */
void
jobstate_where_group(StringInfo sql, JobstateAttachment *attachment,
					 JobstateFilter *filter, JobstateParams *params)
{
	int			i;

	for (i = 0; filter != NULL && i < attachment->key.ncolumns; i++)
	{
		JobstateKeyColumn *column = &attachment->key.column[i];
		const char *name = quote_identifier(NameStr(column->name));
		char		param[16];

		if ((filter->given & (1u << i)) == 0)
			continue;
		appendStringInfoString(sql, " AND ");
		if (filter->key.isnull[i])
		{
			appendStringInfo(sql, "%s IS NULL", name);
			continue;
		}
		snprintf(param, sizeof(param), "$%d",
				 jobstate_param(params, column->base_type, filter->key.value[i]));
		generate_operator_clause(sql, name, column->type,
								 column->typcache->eq_opr,
								 param, column->base_type);
	}
}

/* "schema.table", to stand in a query */
char *
jobstate_table_name(Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		jobstate_error_no_table(relid);
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  name);
}

/*
 * The same, to stand where its rows are meant: partitions are part of it,
 * tables that inherit from it are not.
 */
char *
jobstate_table_rows(Oid relid)
{
	return psprintf("%s%s",
					get_rel_relkind(relid) == RELKIND_RELATION ? "ONLY " : "",
					jobstate_table_name(relid));
}

static char *
recount_query(JobstateAttachment *attachment, Oid relid,
			  JobstateFilter *filter, JobstateParams *params)
{
	StringInfoData sql;
	StringInfoData columns;
	int			i;

	initStringInfo(&columns);
	appendStringInfoString(&columns, quote_identifier(NameStr(attachment->state_column)));
	for (i = 0; i < attachment->key.ncolumns; i++)
		appendStringInfo(&columns, ", %s",
						 quote_identifier(NameStr(attachment->key.column[i].name)));

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT pg_catalog.count(*), %s FROM %s WHERE true",
					 columns.data, jobstate_table_rows(relid));
	jobstate_where_group(&sql, attachment, filter, params);
	appendStringInfo(&sql, " GROUP BY %s", columns.data);
	return sql.data;
}

/* Adds one result row: how many rows have this state and group. */
static int64
add_result(JobstateAttachment *attachment, HeapTuple tuple, TupleDesc desc,
		   JobstateSums *sums)
{
	bool		isnull;
	int64		n = DatumGetInt64(heap_getattr(tuple, 1, desc, &isnull));
	Datum		value = heap_getattr(tuple, 2, desc, &isnull);
	int			state = jobstate_state_index(attachment, value, isnull);
	JobstateKeyValues key;
	JobstateSum *sum;
	int			i;

	if (state < 0)
		jobstate_error_unknown_state_counted(attachment,
											 SPI_getvalue(tuple, desc, 2), n);
	for (i = 0; i < attachment->key.ncolumns; i++)
		key.value[i] = heap_getattr(tuple, 3 + i, desc, &key.isnull[i]);
	sum = jobstate_sums_find(sums, attachment->epoch,
							 jobstate_key_hash(&attachment->key, &key),
							 jobstate_key_to_text(&attachment->key, &key));
	jobstate_deltas_add(&sum->deltas, attachment->machine->state[state].id, n);
	return n;
}

static int64
add_results(JobstateAttachment *attachment, Portal portal, JobstateSums *sums)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "jobstate recount",
												  ALLOCSET_DEFAULT_SIZES);
	int64		rows = 0;
	uint64		i;

	do
	{
		MemoryContext before;

		SPI_cursor_fetch(portal, true, FETCH);
		before = MemoryContextSwitchTo(context);
		for (i = 0; i < SPI_processed; i++)
			rows += add_result(attachment, SPI_tuptable->vals[i],
							   SPI_tuptable->tupdesc, sums);
		MemoryContextSwitchTo(before);
		MemoryContextReset(context);
		i = SPI_processed;
		SPI_freetuptable(SPI_tuptable);
	} while (i > 0);
	MemoryContextDelete(context);
	return rows;
}

/*
 * Adds to sums what the snapshot sees in relid, which is the attached table or
 * a partition of it.  Returns the number of rows.
 */
int64
jobstate_recount(JobstateAttachment *attachment, Oid relid,
				 JobstateFilter *filter, Snapshot snapshot, JobstateSums *sums)
{
	JobstateParams params = {0};
	char	   *sql = recount_query(attachment, relid, filter, &params);
	JobstateRole role = jobstate_become(jobstate_owner_of(relid));
	Portal		portal;
	int64		rows;

	PushActiveSnapshot(snapshot);
	jobstate_spi_connect();
	portal = SPI_cursor_open_with_args(NULL, sql, params.n, params.type,
									   params.value, params.null, true, 0);
	rows = add_results(attachment, portal, sums);
	SPI_cursor_close(portal);
	jobstate_spi_finish();
	PopActiveSnapshot();
	jobstate_return(role);
	return rows;
}

/* Its file, as the snapshot sees it; InvalidOid where it sees no such table. */
static Oid
file_in_snapshot(Relation pg_class, Oid relid, Snapshot snapshot)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			file = InvalidOid;

	ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(pg_class, ClassOidIndexId, true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		file = ((Form_pg_class) GETSTRUCT(tuple))->relfilenode;
	systable_endscan(scan);
	return file;
}

/*
 * Was the table, or a partition of it, truncated after the snapshot?  Its rows
 * are gone then even for those who should still see them.  A rewrite looks the
 * same, so this may err on the careful side.
 */
bool
jobstate_was_rewritten(Oid relid, Snapshot snapshot)
{
	Relation	pg_class = table_open(RelationRelationId, AccessShareLock);
	bool		rewritten = false;
	ListCell   *cell;

	LockRelationOid(relid, AccessShareLock);
	foreach(cell, find_all_inheritors(relid, AccessShareLock, NULL))
	{
		Oid			then = file_in_snapshot(pg_class, lfirst_oid(cell), snapshot);
		Oid			now = file_in_snapshot(pg_class, lfirst_oid(cell), NULL);

		if (OidIsValid(then) && then != now)
			rewritten = true;
	}
	table_close(pg_class, AccessShareLock);
	return rewritten;
}

/* The same for a table that is open, as it is, without its partitions */
bool
jobstate_file_is_newer(Relation rel, Snapshot snapshot)
{
	Relation	pg_class = table_open(RelationRelationId, AccessShareLock);
	Oid			then = file_in_snapshot(pg_class, RelationGetRelid(rel), snapshot);

	table_close(pg_class, AccessShareLock);
	return then != rel->rd_rel->relfilenode;
}
