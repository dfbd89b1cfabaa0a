/*
 * src/parentwrite.c
 *
 * Writing a derived parent.
 *
 * Where the table has no triggers but ours the row is written directly
 * (rowwrite.c).  Else, and where a column's type has more to say than its values,
 * it goes by UPDATE, which does everything that a user's would.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "error.h"
#include "guard.h"
#include "parentwrite.h"
#include "recount.h"

static void
append_set(StringInfo sql, const char *column, const char *format, int param)
{
	const char *name = quote_identifier(column);

	appendStringInfo(sql, ", %s = ", name);
	appendStringInfo(sql, format, param, name);
}

/*
 * UPDATE ... SET state = $1, completed_at, error and reason where there are such
 * columns, by $2 to $4, WHERE the key is $5 and so on
 */
static char *
update_query(JobstateAttachment *parent, JobstateDerivation *derivation)
{
	StringInfoData sql;
	int			i;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s SET %s = $1", jobstate_table_rows(parent->target),
					 quote_identifier(NameStr(parent->state_column)));
	if (derivation->completed_at != NULL)
		append_set(&sql, derivation->completed_at,
				   "CASE WHEN $%d THEN COALESCE(%s, pg_catalog.clock_timestamp()) END", 2);
	if (derivation->error != NULL)
		append_set(&sql, derivation->error, "COALESCE($%d, %s)", 3);
	if (derivation->reason != NULL)
		append_set(&sql, derivation->reason, "$%d", 4);
	for (i = 0; i < parent->row_key->ncolumns; i++)
	{
		JobstateKeyColumn *column = &parent->row_key->column[i];

		appendStringInfoString(&sql, i == 0 ? " WHERE " : " AND ");
		generate_operator_clause(&sql, quote_identifier(NameStr(column->name)), column->type,
								 column->typcache->eq_opr, psprintf("$%d", 5 + i),
								 column->base_type);
	}
	return sql.data;
}

static SPIPlanPtr
update_plan(JobstateAttachment *parent, JobstateSource *source)
{
	Oid			types[4 + JOBSTATE_MAX_GROUP] = {getBaseType(parent->state_type), BOOLOID, TEXTOID, TEXTOID};
	int			i;

	if (source->plan != NULL)
		return source->plan;
	for (i = 0; i < parent->row_key->ncolumns; i++)
		types[4 + i] = parent->row_key->column[i].base_type;
	return jobstate_spi_plan(&source->plan, update_query(parent, source->derivation),
							 4 + parent->row_key->ncolumns, types);
}

static Datum
state_datum(JobstateAttachment *parent, int state)
{
	JobstateState *wanted = &parent->machine->state[state];

	switch (parent->state_kind)
	{
		case JOBSTATE_STATE_INT2:	/* NOLINT(bugprone-branch-clone): not the same everywhere */
			return Int16GetDatum(wanted->id);
		case JOBSTATE_STATE_INT4:
			return Int32GetDatum(wanted->id);
		case JOBSTATE_STATE_ENUM:
			if (!OidIsValid(parent->state_enum[state]))
				jobstate_error_no_state(parent, wanted->name);
			return ObjectIdGetDatum(parent->state_enum[state]);
		case JOBSTATE_STATE_TEXT:
			break;
	}
	return CStringGetTextDatum(wanted->name);
}

static void
update_by_query(JobstateTouched *touched, JobstateVerdict *verdict)
{
	JobstateAttachment *parent = touched->parent;
	Datum		value[4 + JOBSTATE_MAX_GROUP] = {0};
	char		null[4 + JOBSTATE_MAX_GROUP];
	int			i;

	memset(null, ' ', sizeof(null));
	value[0] = state_datum(parent, verdict->state);
	value[1] = BoolGetDatum(parent->machine->state[verdict->state].is_terminal);
	if (verdict->error != NULL)
		value[2] = CStringGetTextDatum(verdict->error);
	else
		null[2] = 'n';
	value[3] = CStringGetTextDatum(verdict->reason);
	for (i = 0; i < parent->row_key->ncolumns; i++)
		value[4 + i] = touched->key.value[i];
	jobstate_spi_connect();
	if (SPI_execute_snapshot(update_plan(parent, verdict->source), value, null,
							 GetLatestSnapshot(), InvalidSnapshot, false, true, 0) != SPI_OK_UPDATE)
		elog(ERROR, "unexpected result of an UPDATE");
	if (SPI_processed != 1)
		jobstate_error_derived_lost(parent);
	jobstate_spi_finish();
}

/* May values of this type be put into this column as they are?  InvalidOid: of its own. */
static bool
is_plain(Relation rel, const char *name, Oid type)
{
	AttrNumber	attno;
	Form_pg_attribute attr;

	if (name == NULL)
		return true;
	attno = get_attnum(RelationGetRelid(rel), name);
	if (attno == InvalidAttrNumber)
		return false;
	attr = TupleDescAttr(RelationGetDescr(rel), attno - 1);
	if (type == TEXTOID && attr->atttypid == VARCHAROID)
		type = VARCHAROID;
	return (!OidIsValid(type) || attr->atttypid == type) && attr->atttypmod < 0 &&
		get_typtype(attr->atttypid) != TYPTYPE_DOMAIN;
}

/* Can the row be written directly? */
static bool
is_simple(JobstateTouched *touched, JobstateLockedRow *row, JobstateDerivation *derivation)
{
	return RelationGetRelid(row->rel) == touched->parent->target &&
		jobstate_row_writer_is_direct(row->rel) &&
		is_plain(row->rel, NameStr(touched->parent->state_column), InvalidOid) &&
		is_plain(row->rel, derivation->completed_at, TIMESTAMPTZOID) &&
		is_plain(row->rel, derivation->error, TEXTOID) &&
		is_plain(row->rel, derivation->reason, TEXTOID);
}

static void
set_column(TupleTableSlot *slot, Relation rel, const char *name, Datum value, bool isnull)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(rel), name);

	slot->tts_values[attno - 1] = value;
	slot->tts_isnull[attno - 1] = isnull;
}

static void
make_version(TupleTableSlot *slot, JobstateTouched *touched, JobstateLockedRow *row,
			 JobstateVerdict *verdict)
{
	JobstateAttachment *parent = touched->parent;
	JobstateDerivation *derivation = verdict->source->derivation;
	bool		is_terminal = parent->machine->state[verdict->state].is_terminal;
	int			natts = slot->tts_tupleDescriptor->natts;

	slot_getallattrs(row->slot);
	ExecClearTuple(slot);
	memcpy(slot->tts_values, row->slot->tts_values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, row->slot->tts_isnull, natts * sizeof(bool));
	set_column(slot, row->rel, NameStr(parent->state_column),
			   state_datum(parent, verdict->state), false);
	if (derivation->completed_at != NULL)
	{
		AttrNumber	attno = get_attnum(parent->target, derivation->completed_at);

		if (!is_terminal || slot->tts_isnull[attno - 1])
			set_column(slot, row->rel, derivation->completed_at,
					   TimestampTzGetDatum(GetCurrentTimestamp()), !is_terminal);
	}
	if (derivation->error != NULL && verdict->error != NULL)
		set_column(slot, row->rel, derivation->error,
				   CStringGetTextDatum(verdict->error), false);
	if (derivation->reason != NULL)
		set_column(slot, row->rel, derivation->reason,
				   CStringGetTextDatum(verdict->reason), false);
	ExecStoreVirtualTuple(slot);
}

static void
update_directly(JobstateTouched *touched, JobstateLockedRow *row, JobstateVerdict *verdict)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	JobstateRowWriter *writer = jobstate_row_writer_open(row->rel);
	TupleTableSlot *slot = table_slot_create(row->rel, NULL);
	TM_Result	result;

	make_version(slot, touched, row, verdict);
	result = jobstate_row_update(writer, row->slot, slot, snapshot, true);
	if (result != TM_Ok)
		elog(ERROR, "unexpected result of jobstate_row_update(): %d", result);
	ExecDropSingleTupleTableSlot(slot);
	jobstate_row_writer_close(writer);
	UnregisterSnapshot(snapshot);
}

/*
 * Writes the parent, as its owner, like the server does for foreign keys.  A
 * transaction that was set READ ONLY after it wrote does so, too: what follows
 * from what it wrote belongs to it.
 */
void
jobstate_parent_write(JobstateTouched *touched, JobstateLockedRow *row,
					  JobstateVerdict *verdict)
{
	JobstateAttachment *parent = touched->parent;
	JobstateExpected expected = {parent->target, verdict->state, &touched->key};
	JobstateExpected before = jobstate_guard_expect(expected);
	bool		read_only = XactReadOnly;
	Oid			userid;
	int			sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(jobstate_owner_of(parent->target),
						   sec_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
	XactReadOnly = false;
	PG_TRY();
	{
		if (is_simple(touched, row, verdict->source->derivation))
			update_directly(touched, row, verdict);
		else
			update_by_query(touched, verdict);
	}
	PG_FINALLY();
	{
		XactReadOnly = read_only;
		(void) jobstate_guard_expect(before);
	}
	PG_END_TRY();
	SetUserIdAndSecContext(userid, sec_context);
}
