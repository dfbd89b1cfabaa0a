/*
 * src/transition.c
 *
 * Verbs for any watched table, in one round trip each.
 *
 * They are plain UPDATEs as the calling role, written for the table at hand and
 * planned once per session: the guard judges, the tally counts.  Rows are
 * locked in the order of their ids, so two callers cannot deadlock on them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "recount.h"
#include "transition.h"

PG_FUNCTION_INFO_V1(jobstate_transition);
PG_FUNCTION_INFO_V1(jobstate_take);

/* A query and its plan, kept for the session */
typedef struct KeptPlan
{
	uint32		hash;			/* hash key: of the text */
	char	   *sql;
	JobstateParams params;		/* what counts is their types */
	SPIPlanPtr	plan;
} KeptPlan;

/* What comes when there are as many is planned each time: tables come and go. */
#define MAX_KEPT_PLANS	1000

static HTAB *kept_plans = NULL;

static bool
is_for(KeptPlan *kept, const char *sql, JobstateParams *params)
{
	return strcmp(kept->sql, sql) == 0 && kept->params.n == params->n &&
		memcmp(kept->params.type, params->type, sizeof(Oid) * params->n) == 0;
}

/*
 * The query's plan.  Another query of the same hash takes its place, and so
 * does the same query where a column has another type now.
 */
SPIPlanPtr
jobstate_kept_plan(const char *sql, JobstateParams *params)
{
	uint32		hash = hash_bytes((const unsigned char *) sql, strlen(sql));
	KeptPlan   *kept;
	SPIPlanPtr	plan = NULL;
	char	   *copy;
	bool		found;

	if (kept_plans == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(uint32);
		ctl.entrysize = sizeof(KeptPlan);
		kept_plans = hash_create("jobstate plans", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	kept = hash_search(kept_plans, &hash, HASH_FIND, NULL);
	if (kept != NULL && is_for(kept, sql, params))
		return kept->plan;

	if (kept == NULL && hash_get_num_entries(kept_plans) >= MAX_KEPT_PLANS)
		return SPI_prepare(sql, params->n, params->type);

	(void) jobstate_spi_plan(&plan, sql, params->n, params->type);
	copy = MemoryContextStrdup(TopMemoryContext, sql);
	kept = hash_search(kept_plans, &hash, HASH_ENTER, &found);
	if (found)
	{
		SPI_freeplan(kept->plan);
		pfree(kept->sql);
	}
	kept->sql = copy;
	kept->params = *params;
	kept->plan = plan;
	return plan;
}

/* The column, if this index makes one integer column identify a row. */
static Form_pg_attribute
identified_by(Relation rel, Oid index)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	Form_pg_attribute attr = NULL;
	Form_pg_index form;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	form = (Form_pg_index) GETSTRUCT(tuple);
	if (form->indisunique && form->indisvalid && form->indimmediate &&
		form->indnkeyatts == 1 && form->indkey.values[0] > 0 &&
		heap_attisnull(tuple, Anum_pg_index_indpred, NULL))
	{
		Oid			type;

		attr = TupleDescAttr(RelationGetDescr(rel), form->indkey.values[0] - 1);
		type = getBaseType(attr->atttypid);
		if (!attr->attnotnull ||
			(type != INT2OID && type != INT4OID && type != INT8OID))
			attr = NULL;
	}
	ReleaseSysCache(tuple);
	return attr;
}

/*
 * The column that the verbs' ids are of, quoted: the primary key if it is one
 * integer, or else a unique integer column that is not null.
 */
static const char *
id_column(Oid target)
{
	Relation	rel = table_open(target, AccessShareLock);
	Form_pg_attribute attr = identified_by(rel, jobstate_primary_key(rel));
	const char *name;
	ListCell   *cell;

	foreach(cell, RelationGetIndexList(rel))
		if (attr == NULL)
			attr = identified_by(rel, lfirst_oid(cell));
	if (attr == NULL)
		jobstate_error_no_key(target, true);
	name = pstrdup(quote_identifier(NameStr(attr->attname)));
	table_close(rel, NoLock);
	return name;
}

/* A state as a literal of the state column's type, below any domain. */
char *
jobstate_state_literal(JobstateAttachment *attachment, int state)
{
	JobstateState *which = &attachment->machine->state[state];
	bool		by_id = attachment->state_kind == JOBSTATE_STATE_INT2 ||
		attachment->state_kind == JOBSTATE_STATE_INT4;

	return psprintf("%s::%s",
					quote_literal_cstr(by_id ? psprintf("%d", which->id) : which->name),
					format_type_be_qualified(getBaseType(attachment->state_type)));
}

/* "state = this or that", for the states that are wanted */
char *
jobstate_state_condition(JobstateAttachment *attachment, Bitmapset *states)
{
	StringInfoData sql;
	char	   *column = psprintf("%s::%s",
								  quote_identifier(NameStr(attachment->state_column)),
								  format_type_be_qualified(getBaseType(attachment->state_type)));
	int			state = -1;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "(false");
	while ((state = bms_next_member(states, state)) >= 0)
		appendStringInfo(&sql, " OR %s OPERATOR(pg_catalog.=) %s", column,
						 jobstate_state_literal(attachment, state));
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

static int
state_argument(JobstateAttachment *attachment, text *name)
{
	int			state = jobstate_machine_by_name(attachment->machine,
												 VARDATA_ANY(name),
												 VARSIZE_ANY_EXHDR(name));

	if (state < 0)
		jobstate_error_no_state(attachment, text_to_cstring(name));
	return state;
}

/* The states from which a row may come, or the one that was asked for. */
static Bitmapset *
sources(JobstateAttachment *attachment, int to, text *from)
{
	JobstateMachine *machine = attachment->machine;
	Bitmapset  *states = NULL;
	int			i;

	if (from != NULL)
	{
		i = state_argument(attachment, from);
		if (!bms_is_member(to, machine->state[i].next))
			jobstate_error_no_edge(attachment, i, to);
		return bms_make_singleton(i);
	}
	for (i = 0; i < machine->nstates; i++)
		if (i != to && bms_is_member(to, machine->state[i].next))
			states = bms_add_member(states, i);
	return states;
}

/* Runs the UPDATE and returns the ids, which are its only column, in order. */
static void
return_ids(ReturnSetInfo *rsinfo, const char *sql, JobstateParams *params)
{
	uint64		i;

	jobstate_spi_connect();
	if (SPI_execute_plan(jobstate_kept_plan(sql, params), params->value, params->null,
						 false, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of \"%s\"", sql);
	for (i = 0; i < SPI_processed; i++)
	{
		bool		isnull = false;
		Datum		id = SPI_getbinval(SPI_tuptable->vals[i],
									   SPI_tuptable->tupdesc, 1, &isnull);

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &id, &isnull);
	}
	jobstate_spi_finish();
}

/* Locks what picked selects, moves it, and returns the ids in order. */
static char *
move_query(JobstateAttachment *attachment, const char *id, int to,
		   const char *picked)
{
	return psprintf("WITH picked AS MATERIALIZED (%s), moved AS ("
					"UPDATE %s AS t SET %s = %s FROM picked"
					" WHERE t.%s OPERATOR(pg_catalog.=) picked.id"
					" RETURNING t.%s::bigint AS id)"
					" SELECT id FROM moved ORDER BY id",
					picked, jobstate_table_rows(attachment->target),
					quote_identifier(NameStr(attachment->state_column)),
					jobstate_state_literal(attachment, to), id, id);
}

/* transition(target, ids, to_state, from_state) returns setof bigint */
Datum
jobstate_transition(PG_FUNCTION_ARGS)
{
	static const char *const argument[] = {"target", "ids", "to_state"};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	JobstateAttachment *attachment;
	JobstateParams params = {0};
	const char *id;
	char	   *picked;
	int			to;
	int			i;

	for (i = 0; i < 3; i++)
		if (PG_ARGISNULL(i))
			jobstate_error_null(argument[i]);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	attachment = jobstate_attachment(PG_GETARG_OID(0));
	to = state_argument(attachment, PG_GETARG_TEXT_PP(2));
	id = id_column(attachment->target);
	(void) jobstate_param(&params, INT8ARRAYOID, PG_GETARG_DATUM(1));
	picked = psprintf("SELECT %s AS id FROM %s WHERE %s OPERATOR(pg_catalog.=) ANY ($1)"
					  " AND %s ORDER BY %s FOR NO KEY UPDATE",
					  id, jobstate_table_rows(attachment->target), id,
					  jobstate_state_condition(attachment,
											   sources(attachment, to,
													   PG_ARGISNULL(3) ? NULL :
													   PG_GETARG_TEXT_PP(3))),
					  id);
	return_ids(rsinfo, move_query(attachment, id, to, picked), &params);
	return (Datum) 0;
}

/* take(target, from_state, to_state, group_key, n) returns setof bigint */
Datum
jobstate_take(PG_FUNCTION_ARGS)
{
	static const char *const argument[] = {"target", "from_state", "to_state", NULL, "n"};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	JobstateAttachment *attachment;
	JobstateFilter filter = {0};
	JobstateParams params = {0};
	StringInfoData picked;
	const char *id;
	int			to;
	int			i;

	for (i = 0; i < 5; i++)
		if (PG_ARGISNULL(i) && argument[i] != NULL)
			jobstate_error_null(argument[i]);
	if (PG_GETARG_INT32(4) <= 0)
		jobstate_error_not_positive("n");
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	attachment = jobstate_attachment(PG_GETARG_OID(0));
	to = state_argument(attachment, PG_GETARG_TEXT_PP(2));
	id = id_column(attachment->target);
	if (!PG_ARGISNULL(3))
	{
		JobstateRole role = jobstate_become(jobstate_owner_of(attachment->target));

		filter.given = jobstate_key_from_jsonb(&attachment->key, PG_GETARG_JSONB_P(3),
											   attachment->target, &filter.key);
		jobstate_return(role);
	}

	initStringInfo(&picked);
	appendStringInfo(&picked, "SELECT %s AS id FROM %s WHERE %s",
					 id, jobstate_table_rows(attachment->target),
					 jobstate_state_condition(attachment,
											  sources(attachment, to, PG_GETARG_TEXT_PP(1))));
	jobstate_where_group(&picked, attachment, &filter, &params);
	appendStringInfo(&picked, " ORDER BY %s LIMIT $%d FOR NO KEY UPDATE SKIP LOCKED",
					 id, jobstate_param(&params, INT8OID,
										Int64GetDatum(PG_GETARG_INT32(4))));
	return_ids(rsinfo, move_query(attachment, id, to, picked.data), &params);
	return (Datum) 0;
}
