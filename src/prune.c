/*
 * src/prune.c
 *
 * Old terminal rows become numbers.
 *
 * What goes into the rollup is computed from the rows that this very DELETE
 * removed, in the same transaction, so live + rolled up stays what it was.  A
 * whole partition goes by TRUNCATE: its rows are read once, under the lock
 * that keeps everybody else out, for the rollup and for the tally.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "ddl.h"
#include "error.h"
#include "recount.h"
#include "tally.h"
#include "transition.h"

PG_FUNCTION_INFO_V1(jobstate_prune);
PG_FUNCTION_INFO_V1(jobstate_prune_partition);

/* The parts of a query that the primary key decides about */
typedef struct KeyClauses
{
	StringInfoData list;		/* a, b */
	StringInfoData join;		/* t.a = doomed.a AND t.b = doomed.b */
} KeyClauses;

/* One line of the rollup */
typedef struct Rolled
{
	text	   *key;
	int16		state_id;
	DateADT		day;
	int64		n;
} Rolled;

static void
add_key_column(KeyClauses *key, Form_pg_attribute attr)
{
	const char *name = quote_identifier(NameStr(attr->attname));
	Oid			type = getBaseType(attr->atttypid);
	TypeCacheEntry *typcache = lookup_type_cache(type, TYPECACHE_EQ_OPR);

	if (key->list.len > 0)
	{
		appendStringInfoString(&key->list, ", ");
		appendStringInfoString(&key->join, " AND ");
	}
	appendStringInfoString(&key->list, name);
	generate_operator_clause(&key->join, psprintf("t.%s", name), attr->atttypid,
							 typcache->eq_opr,
							 psprintf("doomed.%s", name), attr->atttypid);
}

static void
key_clauses(Oid target, KeyClauses *key)
{
	Relation	rel = table_open(target, AccessShareLock);
	HeapTuple	tuple = SearchSysCache1(INDEXRELID,
										ObjectIdGetDatum(jobstate_primary_key(rel)));
	Form_pg_index form;
	int			i;

	if (!HeapTupleIsValid(tuple))
		jobstate_error_no_key(target, false);
	form = (Form_pg_index) GETSTRUCT(tuple);
	initStringInfo(&key->list);
	initStringInfo(&key->join);
	for (i = 0; i < form->indnkeyatts; i++)
		add_key_column(key, TupleDescAttr(RelationGetDescr(rel),
										  form->indkey.values[i] - 1));
	ReleaseSysCache(tuple);
	table_close(rel, NoLock);
}

/*
 * The age column as a condition on $1, a timestamptz, and as a UTC day.  A
 * timestamp without time zone is taken as UTC.
 */
static void
age_clauses(Oid target, const char *column, char **condition, char **day)
{
	Relation	rel = table_open(target, AccessShareLock);
	AttrNumber	attno = get_attnum(target, column);
	const char *name = quote_identifier(column);
	Oid			type;

	if (attno <= 0)
		jobstate_error_no_column(rel, column);
	type = getBaseType(get_atttype(target, attno));
	switch (type)
	{
		case TIMESTAMPTZOID:
			*condition = psprintf("%s OPERATOR(pg_catalog.<) $1", name);
			*day = psprintf("pg_catalog.timezone('UTC', t.%s)::pg_catalog.date", name);
			break;
		case TIMESTAMPOID:
		case DATEOID:
			*condition = psprintf("%s OPERATOR(pg_catalog.<) pg_catalog.timezone('UTC', $1)::%s",
								  name, format_type_be_qualified(type));
			*day = psprintf("t.%s::pg_catalog.date", name);
			break;
		default:
			jobstate_error_age_type(rel, column, type);
	}
	table_close(rel, NoLock);
}

static Bitmapset *
terminal_states(JobstateMachine *machine)
{
	Bitmapset  *states = NULL;
	int			i;

	for (i = 0; i < machine->nstates; i++)
		if (machine->state[i].is_terminal)
			states = bms_add_member(states, i);
	return states;
}

/* The states of these names, all of which must be terminal. */
static Bitmapset *
named_states(JobstateAttachment *attachment, ArrayType *names)
{
	Bitmapset  *states = NULL;
	Datum	   *name;
	bool	   *isnull;
	int			n;
	int			i;

	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &name, &isnull, &n);
	for (i = 0; i < n; i++)
	{
		char	   *wanted;
		int			state;

		if (isnull[i])
			jobstate_error_null("states");
		wanted = TextDatumGetCString(name[i]);
		state = jobstate_machine_by_name(attachment->machine, wanted, strlen(wanted));
		if (state < 0)
			jobstate_error_no_state(attachment, wanted);
		if (!attachment->machine->state[state].is_terminal)
			jobstate_error_not_terminal(attachment, state);
		states = bms_add_member(states, state);
	}
	return states;
}

/* Appends ", t.column AS g0, ..." for the group's columns. */
static void
group_columns(StringInfo sql, JobstateAttachment *attachment)
{
	int			i;

	for (i = 0; i < attachment->key.ncolumns; i++)
		appendStringInfo(sql, ", t.%s AS g%d",
						 quote_identifier(NameStr(attachment->key.column[i].name)), i);
}

/*
 * Deletes from t what it could lock, in the order of keys.  In one table that is
 * at the places where it was locked; a second look for the keys would again pass
 * all that is dead.  A place says nothing without its partition, so there it is
 * the keys.
 */
static char *
delete_query(Oid relid, KeyClauses *key, const char *condition)
{
	const char *rows = jobstate_table_rows(relid);
	bool		by_place = get_rel_relkind(relid) == RELKIND_RELATION;
	char	   *doomed;

	doomed = psprintf("SELECT %s FROM %s WHERE %s ORDER BY %s LIMIT $2 FOR UPDATE SKIP LOCKED",
					  by_place ? "ctid" : key->list.data, rows, condition, key->list.data);
	if (by_place)
		return psprintf("DELETE FROM %s AS t WHERE t.ctid OPERATOR(pg_catalog.=) ANY (ARRAY(%s))",
						rows, doomed);
	return psprintf("WITH doomed AS MATERIALIZED (%s) DELETE FROM %s AS t USING doomed WHERE %s",
					doomed, rows, key->join.data);
}

static char *
prune_query(JobstateAttachment *attachment, Oid relid, Bitmapset *states,
			const char *age_column)
{
	KeyClauses	key;
	StringInfoData sql;
	StringInfoData groups;
	char	   *condition;
	char	   *day;
	int			i;

	key_clauses(relid, &key);
	age_clauses(relid, age_column, &condition, &day);
	initStringInfo(&groups);
	group_columns(&groups, attachment);

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "WITH gone AS (%s RETURNING t.%s AS state, %s AS day%s)"
					 " SELECT pg_catalog.count(*), gone.* FROM gone GROUP BY state, day",
					 delete_query(relid, &key, psprintf("%s AND %s", jobstate_state_condition(attachment, states),
														condition)),
					 quote_identifier(NameStr(attachment->state_column)),
					 day, groups.data);
	for (i = 0; i < attachment->key.ncolumns; i++)
		appendStringInfo(&sql, ", g%d", i);
	return sql.data;
}

static void
read_result(JobstateAttachment *attachment, HeapTuple tuple, TupleDesc desc,
			Rolled *rolled)
{
	JobstateKeyValues key;
	bool		isnull;
	Datum		value;
	int			state;
	int			i;

	rolled->n = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
	value = SPI_getbinval(tuple, desc, 2, &isnull);
	state = jobstate_state_index(attachment, value, isnull);
	rolled->state_id = attachment->machine->state[state].id;
	rolled->day = DatumGetDateADT(SPI_getbinval(tuple, desc, 3, &isnull));
	for (i = 0; i < attachment->key.ncolumns; i++)
		key.value[i] = SPI_getbinval(tuple, desc, 4 + i, &key.isnull[i]);
	rolled->key = jobstate_key_to_text(&attachment->key, &key);
}

static int
compare_rolled(const void *a, const void *b)
{
	const Rolled *x = a;
	const Rolled *y = b;
	int			cmp = jobstate_key_compare(x->key, y->key);

	if (cmp == 0)
		cmp = x->state_id - y->state_id;
	if (cmp == 0)
		cmp = (x->day > y->day) - (x->day < y->day);
	return cmp;
}

/* In one order, so that two prunes of a table wait for each other at most. */
static void
write_rollup(JobstateAttachment *attachment, Rolled *rolled, uint64 n)
{
	Oid			types[] = {OIDOID, JSONBOID, INT2OID, DATEOID, INT8OID};
	JobstateRole role = jobstate_become(jobstate_catalog()->owner);
	uint64		i;

	qsort(rolled, n, sizeof(Rolled), compare_rolled);
	for (i = 0; i < n; i++)
	{
		Datum		values[5];

		values[0] = ObjectIdGetDatum(attachment->target);
		values[1] = JsonbPGetDatum(jobstate_key_to_jsonb(&attachment->key, rolled[i].key));
		values[2] = Int16GetDatum(rolled[i].state_id);
		values[3] = DateADTGetDatum(rolled[i].day);
		values[4] = Int64GetDatum(rolled[i].n);
		if (SPI_execute_with_args("INSERT INTO jobstate.rollup AS r VALUES ($1, $2, $3, $4, $5)"
								  " ON CONFLICT (target, group_key, state_id, day)"
								  " DO UPDATE SET n = r.n OPERATOR(pg_catalog.+) excluded.n",
								  5, types, values, NULL, false, 0) != SPI_OK_INSERT)
			elog(ERROR, "could not write the rollup");
	}
	jobstate_return(role);
}

/*
 * Deletes one batch from relid, which is the attached table or a partition of
 * it, and rolls it up.  Returns how many rows went.
 */
static int64
prune(JobstateAttachment *attachment, Oid relid, Bitmapset *states,
	  const char *age_column, TimestampTz before, int64 batch)
{
	char	   *sql = prune_query(attachment, relid, states, age_column);
	Oid			types[] = {TIMESTAMPTZOID, INT8OID};
	Datum		values[2];
	Rolled	   *rolled;
	int64		rows = 0;
	uint64		n;
	uint64		i;

	values[0] = TimestampTzGetDatum(before);
	values[1] = Int64GetDatum(batch);
	jobstate_spi_connect();
	if (SPI_execute_with_args(sql, 2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of \"%s\"", sql);
	n = SPI_processed;
	rolled = palloc(sizeof(Rolled) * (n + 1));
	for (i = 0; i < n; i++)
	{
		read_result(attachment, SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
					&rolled[i]);
		rows += rolled[i].n;
	}
	JOBSTATE_INSTANT("prune-deleted");
	write_rollup(attachment, rolled, n);
	jobstate_spi_finish();
	return rows;
}

/* What this table is attached as: itself, or what it is a partition of */
static JobstateAttachment *
attachment_of(Oid relid)
{
	Oid			root = jobstate_attached_root(relid);

	return jobstate_attachment(OidIsValid(root) ? root : relid);
}

/* prune(target, older_than, age_column, batch, states) returns bigint */
Datum
jobstate_prune(PG_FUNCTION_ARGS)
{
	static const char *const argument[] = {"target", "older_than", "age_column", "batch"};
	JobstateAttachment *attachment;
	TimestampTz before;
	int			i;

	for (i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			jobstate_error_null(argument[i]);
	if (PG_GETARG_INT32(3) <= 0)
		jobstate_error_not_positive("batch");
	attachment = attachment_of(PG_GETARG_OID(0));
	before = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
													 TimestampTzGetDatum(GetCurrentTimestamp()),
													 PG_GETARG_DATUM(1)));
	PG_RETURN_INT64(prune(attachment, PG_GETARG_OID(0),
						  PG_ARGISNULL(4) ? terminal_states(attachment->machine) :
						  named_states(attachment, PG_GETARG_ARRAYTYPE_P(4)),
						  NameStr(*PG_GETARG_NAME(2)), before,
						  PG_GETARG_INT32(3)));
}

/*
 * Counts a partition's rows.  Those that tell no age have the day on which
 * they go.
 */
static char *
partition_query(JobstateAttachment *attachment, Oid part, const char *age_column)
{
	StringInfoData sql;
	char	   *condition;
	char	   *day;
	int			i;

	age_clauses(part, age_column, &condition, &day);
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT pg_catalog.count(*), t.%s AS state,"
					 " COALESCE(%s, pg_catalog.timezone('UTC',"
					 " pg_catalog.statement_timestamp())::pg_catalog.date) AS day",
					 quote_identifier(NameStr(attachment->state_column)), day);
	group_columns(&sql, attachment);
	appendStringInfo(&sql, " FROM %s AS t GROUP BY state, day",
					 jobstate_table_rows(part));
	for (i = 0; i < attachment->key.ncolumns; i++)
		appendStringInfo(&sql, ", g%d", i);
	return sql.data;
}

/*
 * One line of what the partition holds goes to the rollup and off the counts.
 */
static void
book_result(JobstateAttachment *attachment, Oid part, HeapTuple tuple,
			TupleDesc desc, Rolled *rolled)
{
	JobstateFact fact;
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, 2, &isnull);
	int			i;

	fact.state = jobstate_state_index(attachment, value, isnull);
	if (fact.state < 0)
		jobstate_error_unknown_state_counted(attachment, SPI_getvalue(tuple, desc, 2),
											 DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)));
	read_result(attachment, tuple, desc, rolled);
	if (!attachment->machine->state[fact.state].is_terminal)
		jobstate_error_not_done(attachment, part, fact.state, rolled->n);
	for (i = 0; i < attachment->key.ncolumns; i++)
		fact.key.value[i] = SPI_getbinval(tuple, desc, 4 + i, &fact.key.isnull[i]);
	jobstate_tally_add(attachment, &fact, -rolled->n);
}

/*
 * Rolls a whole partition up and truncates it.  The caller has it locked, so
 * the newest snapshot sees all that goes.  The rows are counted by the table's
 * owner, whose row security hides none; the TRUNCATE is the caller's.
 */
static int64
prune_partition(JobstateAttachment *attachment, Oid part, const char *age_column)
{
	char	   *sql = partition_query(attachment, part, age_column);
	JobstateRole role = jobstate_become(jobstate_owner_of(part));
	Rolled	   *rolled;
	int64		rows = 0;
	uint64		n;
	uint64		i;

	PushActiveSnapshot(GetLatestSnapshot());
	jobstate_spi_connect();
	if (SPI_execute(sql, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of \"%s\"", sql);
	n = SPI_processed;
	rolled = palloc(sizeof(Rolled) * (n + 1));
	for (i = 0; i < n; i++)
	{
		book_result(attachment, part, SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
					&rolled[i]);
		rows += rolled[i].n;
	}
	PopActiveSnapshot();
	jobstate_return(role);
	write_rollup(attachment, rolled, n);
	jobstate_spi_finish();
	JOBSTATE_INSTANT("prune-rolled-up");
	jobstate_truncate_booked(part);
	return rows;
}

/* prune_partition(part, age_column) returns bigint */
Datum
jobstate_prune_partition(PG_FUNCTION_ARGS)
{
	Oid			part;
	AclResult	right;

	if (PG_ARGISNULL(0))
		jobstate_error_null("part");
	if (PG_ARGISNULL(1))
		jobstate_error_null("age_column");
	part = PG_GETARG_OID(0);
	(void) attachment_of(part);
	if (!get_rel_relispartition(part) || get_rel_relkind(part) != RELKIND_RELATION)
		jobstate_error_no_partition(part);
	right = pg_class_aclcheck(part, GetUserId(), ACL_TRUNCATE);
	if (right != ACLCHECK_OK)
		aclcheck_error(right, OBJECT_TABLE, get_rel_name(part));
	PreventCommandIfReadOnly("prune_partition()");
	LockRelationOid(part, AccessExclusiveLock);
	PG_RETURN_INT64(prune_partition(attachment_of(part), part,
									NameStr(*PG_GETARG_NAME(1))));
}
