/*
 * src/storeupdate.c
 *
 * The update of a record: what every worker does all the time.
 *
 * The row is found by its key and changes in place, without the executor's
 * detour.  Whoever comes second waits for the first, and merges with what that
 * one has written; at the stricter isolation levels it fails with 40001.  What is
 * unusual is left to SQL: nothing to write, no such record, a token that is not
 * that of the attempt.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "familytable.h"
#include "rowwrite.h"
#include "storefields.h"
#include "storemerge.h"

PG_FUNCTION_INFO_V1(jobstate_store_update);

/* The columns that an update reads or writes */
typedef enum StoreColumn
{
	STORE_STATE_ID,
	STORE_TOKEN,
	STORE_PERCENT,
	STORE_TTL,
	STORE_EXPIRES_AT,
	STORE_FIELDS,
	STORE_COLUMNS
} StoreColumn;

static const JobstateColumn store_column[STORE_COLUMNS] = {
	{"state_id", INT2OID, 2},
	{"token", UUIDOID, 4},
	{"percent", NUMERICOID, 5},
	{"ttl", INTERVALOID, 6},
	{"expires_at", TIMESTAMPTZOID, 8},
	{"fields", JSONBOID, 11}
};
static const JobstateColumn id_column = {"id", TEXTOID, 1};

/* The table, open */
typedef struct StoreTable
{
	JobstateRowWriter *writer;
	Relation	pkey;
	AttrNumber	attno[STORE_COLUMNS];
	TupleTableSlot *old;
	TupleTableSlot *new;
} StoreTable;

/* One call */
typedef struct StoreUpdate
{
	Datum		id;
	pg_uuid_t  *token;			/* NULL: none is given */
	JobstateStoreGiven given;
} StoreUpdate;

static void
open_store(StoreTable *store)
{
	Oid			relid = get_relname_relid("store", jobstate_catalog()->schema);
	Relation	rel;
	int			i;

	if (!OidIsValid(relid))
		jobstate_error_no_family("store", "store");
	jobstate_rows_check_rights(relid, ACL_SELECT | ACL_UPDATE);
	rel = jobstate_family_table_open(relid, RowExclusiveLock);
	jobstate_rows_refuse_triggers(rel);
	store->writer = jobstate_row_writer_open(rel);
	for (i = 0; i < STORE_COLUMNS; i++)
		store->attno[i] = jobstate_family_column(rel, &store_column[i]);
	store->pkey = jobstate_family_key_open(rel, jobstate_family_column(rel, &id_column),
										   RowExclusiveLock);
	store->old = table_slot_create(rel, NULL);
	store->new = table_slot_create(rel, NULL);
}

static void
close_store(StoreTable *store)
{
	Relation	rel = store->writer->rel;

	ExecDropSingleTupleTableSlot(store->old);
	ExecDropSingleTupleTableSlot(store->new);
	index_close(store->pkey, NoLock);
	jobstate_row_writer_close(store->writer);
	table_close(rel, NoLock);
}

/* The row with this key, in the slot "old", as the active snapshot sees it */
static bool
find_row(StoreTable *store, Datum id)
{
	IndexScanDesc scan = jobstate_index_beginscan(store->writer->rel, store->pkey,
												  GetActiveSnapshot(), 1);
	ScanKeyData key;
	bool		found;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_TEXTEQ, id);
	key.sk_collation = store->pkey->rd_indcollation[0];
	index_rescan(scan, &key, 1, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, store->old);
	index_endscan(scan);
	return found;
}

static Datum
old_value(StoreTable *store, StoreColumn column, bool *isnull)
{
	return slot_getattr(store->old, store->attno[column], isnull);
}

/* A value that there always is */
static Datum
sure_value(StoreTable *store, StoreColumn column)
{
	bool		isnull;
	Datum		value = old_value(store, column, &isnull);

	if (isnull)
		jobstate_error_column_null(store->writer->rel, store_column[column].name);
	return value;
}

static void
set_value(StoreTable *store, StoreColumn column, Datum value)
{
	store->new->tts_values[store->attno[column] - 1] = value;
	store->new->tts_isnull[store->attno[column] - 1] = false;
}

static bool
is_alive(StoreTable *store, TimestampTz now)
{
	bool		isnull;
	Datum		expires_at = old_value(store, STORE_EXPIRES_AT, &isnull);

	return !isnull && DatumGetTimestampTz(expires_at) > now;
}

static bool
is_of_attempt(StoreTable *store, pg_uuid_t *token)
{
	bool		isnull;
	Datum		current = old_value(store, STORE_TOKEN, &isnull);

	return token == NULL ||
		(!isnull && memcmp(DatumGetUUIDP(current), token, UUID_LEN) == 0);
}

/* Has this attempt told more already? */
static bool
is_late(StoreTable *store, Numeric percent)
{
	bool		isnull;
	Datum		told = old_value(store, STORE_PERCENT, &isnull);

	return percent != NULL && !isnull &&
		DatumGetBool(DirectFunctionCall2(numeric_lt, NumericGetDatum(percent), told));
}

/* Makes the new version of the row, and returns the record that it is. */
static Jsonb *
make_new(StoreTable *store, JobstateStoreGiven *given, TimestampTz now)
{
	int			natts = store->new->tts_tupleDescriptor->natts;
	bool		late = is_late(store, given->percent);
	Jsonb	   *fields;
	Jsonb	   *record;
	Datum		state_id;
	Datum		ttl;

	slot_getallattrs(store->old);
	ExecClearTuple(store->new);
	memcpy(store->new->tts_values, store->old->tts_values, natts * sizeof(Datum));
	memcpy(store->new->tts_isnull, store->old->tts_isnull, natts * sizeof(bool));
	ExecStoreVirtualTuple(store->new);

	state_id = given->state_id > 0 ? Int16GetDatum(given->state_id) :
		sure_value(store, STORE_STATE_ID);
	ttl = sure_value(store, STORE_TTL);
	fields = DatumGetJsonbP(sure_value(store, STORE_FIELDS));
	jobstate_store_merge(fields, given, late, DatumGetInt16(state_id), &fields, &record);
	jobstate_store_check_fields(fields);

	set_value(store, STORE_STATE_ID, state_id);
	set_value(store, STORE_FIELDS, JsonbPGetDatum(fields));
	set_value(store, STORE_EXPIRES_AT,
			  DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now), ttl));
	if (given->percent != NULL && !late)
		set_value(store, STORE_PERCENT, NumericGetDatum(given->percent));
	return record;
}

static void
refuse_if_serial(void)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update")));
}

/* A function of the family that takes the same arguments as store_update() does. */
static Datum
ask_sql(SPIPlanPtr *plan, const char *sql, FunctionCallInfo fcinfo, bool *isnull)
{
	Oid			types[] = {TEXTOID, JSONBOID, UUIDOID, BOOLOID};
	Datum		values[4];
	char		nulls[4];
	MemoryContext context = CurrentMemoryContext;
	Datum		answer;
	int			i;

	for (i = 0; i < 4; i++)
	{
		values[i] = fcinfo->args[i].value;
		nulls[i] = fcinfo->args[i].isnull ? 'n' : ' ';
	}
	jobstate_spi_connect();
	if (SPI_execute_plan(jobstate_spi_plan(plan, sql, 4, types), values, nulls,
						 false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "unexpected result of \"%s\"", sql);
	answer = jobstate_spi_value(0, 1, isnull);
	if (!*isnull)
	{
		MemoryContext spi = MemoryContextSwitchTo(context);

		answer = JsonbPGetDatum(DatumGetJsonbPCopy(answer));
		MemoryContextSwitchTo(spi);
	}
	jobstate_spi_finish();
	return answer;
}

/* Waits for whoever has the row, and keeps it if that one wrote nothing. */
static TM_Result
lock_row(StoreTable *store)
{
	TM_Result	result = jobstate_row_lock(store->writer, store->old,
										   GetActiveSnapshot(), true, store->new);

	ExecClearTuple(store->new);
	return result;
}

/*
 * The record that may be written, if it is there; what it waits for may change it.
 *
 * Time goes by while it waits, so whether the record is alive, and until when it
 * will be, is for the clock to say after the wait: the row is locked first where
 * somebody might have it.
 */
static Jsonb *
update_row(StoreTable *store, StoreUpdate *update, bool *expired)
{
	bool		locked = false;

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		Jsonb	   *record;
		TM_Result	result;

		if (!find_row(store, update->id) || !is_alive(store, now) ||
			!is_of_attempt(store, update->token))
			return NULL;
		if (!locked && jobstate_row_seems_locked(store->old))
		{
			result = lock_row(store);
			locked = result == TM_Ok;
			if (locked)
				continue;
		}
		else
		{
			record = make_new(store, &update->given, now);
			result = jobstate_row_update(store->writer, store->old, store->new,
										 GetActiveSnapshot(), true);
			if (result == TM_Ok)
			{
				/* somebody may have locked it in the moment before */
				*expired = !is_alive(store, GetCurrentTimestamp());
				return record;
			}
		}
		ExecClearTuple(store->old);
		refuse_if_serial();
		PopActiveSnapshot();
		PushActiveSnapshot(GetTransactionSnapshot());
		CHECK_FOR_INTERRUPTS();
	}
}

static Jsonb *
update_record(StoreUpdate *update, bool *expired)
{
	StoreTable	store;
	Jsonb	   *record;

	CommandCounterIncrement();
	open_store(&store);
	PushActiveSnapshot(GetTransactionSnapshot());
	record = update_row(&store, update, expired);
	PopActiveSnapshot();
	close_store(&store);
	return record;
}

/* Are there an id and fields?  If so they are taken from the arguments. */
static bool
read_update(FunctionCallInfo fcinfo, StoreUpdate *update)
{
	Jsonb	   *fields;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		return false;
	fields = PG_GETARG_JSONB_P(1);
	if (!JB_ROOT_IS_OBJECT(fields))
		return false;
	update->id = PG_GETARG_DATUM(0);
	update->token = PG_ARGISNULL(2) ? NULL : PG_GETARG_UUID_P(2);
	jobstate_store_read_given(&update->given, fields);
	return true;
}

/* Nothing is given that an update could write, or what is given makes no sense. */
static bool
is_unusual(JobstateStoreGiven *given)
{
	return given->nfields == 0 || given->has_id ||
		(given->status != NULL && given->state_id == 0);
}

/* store_update(id, fields, token, upsert) returns jsonb */
Datum
jobstate_store_update(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr look = NULL;
	static SPIPlanPtr miss = NULL;
	static SPIPlanPtr gone = NULL;
	StoreUpdate update;
	Datum		answer;
	bool		isnull;
	bool		complete;

	PreventCommandIfReadOnly("store_update()");
	complete = read_update(fcinfo, &update);
	if (!complete || is_unusual(&update.given))
	{
		answer = ask_sql(&look, "SELECT jobstate.store_unusual($1, $2, $3, $4)", fcinfo, &isnull);
		if (!isnull)
			return answer;
		if (!complete)
			elog(ERROR, "store_unusual() accepted an update without id or fields");
	}
	for (;;)
	{
		bool		expired = false;
		Jsonb	   *record = update_record(&update, &expired);

		if (expired)
			(void) ask_sql(&gone, "SELECT jobstate.store_gone($1, $2, $3, $4)", fcinfo, &isnull);
		if (record != NULL)
			PG_RETURN_JSONB_P(record);
		answer = ask_sql(&miss, "SELECT jobstate.store_miss($1, $2, $3, $4)", fcinfo, &isnull);
		if (!isnull)
			return answer;
		CHECK_FOR_INTERRUPTS();
	}
}
