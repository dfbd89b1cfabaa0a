/*
 * src/error.c
 *
 * What jobstate says to a user when it refuses a row, an argument or a count.  What
 * it says of whole tables is in tableerror.c and queueerror.c.
 *
 * What a role may not read is not shown: neither the key of the row nor the
 * states it goes between.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/genam.h"
#include "catalog/pg_index.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"

#include "attach.h"
#include "compat.h"
#include "error.h"

static bool
may_read_in(Oid relid, AttrNumber attno)
{
	return pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK ||
		pg_attribute_aclcheck(relid, attno, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
}

/* May the role read this column of the row, in the partition or in the whole? */
static bool
may_read(JobstateWatched *watched, Relation rel, AttrNumber attno)
{
	Oid			relid = RelationGetRelid(rel);
	Oid			root = watched->attachment->target;

	if (check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED ||
		check_enable_rls(root, InvalidOid, true) == RLS_ENABLED)
		return false;
	return may_read_in(relid, attno) ||
		(root != relid &&
		 may_read_in(root, get_attnum(root, get_attname(relid, attno, false))));
}

static void
append_value(StringInfo buf, Form_pg_attribute attr, TupleTableSlot *slot)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, attr->attnum, &isnull);
	Oid			output;
	bool		varlena;

	if (isnull)
	{
		appendStringInfoString(buf, "null");
		return;
	}
	getTypeOutputInfo(attr->atttypid, &output, &varlena);
	appendStringInfoString(buf, OidOutputFunctionCall(output, value));
}

/* "row (id=7)", or just "row" where the key is none or may not be read */
static char *
describe_row(JobstateWatched *watched, Relation rel, TupleTableSlot *slot)
{
	StringInfoData buf;
	Oid			index = jobstate_primary_key(rel);
	HeapTuple	tuple;
	Form_pg_index form;
	int			i;

	if (!OidIsValid(index))
		return "row";
	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for index %u", index);
	form = (Form_pg_index) GETSTRUCT(tuple);

	initStringInfo(&buf);
	appendStringInfoString(&buf, "row (");
	for (i = 0; i < form->indnkeyatts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(rel),
											   form->indkey.values[i] - 1);

		if (!may_read(watched, rel, attr->attnum))
		{
			ReleaseSysCache(tuple);
			return "row";
		}
		appendStringInfo(&buf, "%s%s=", i > 0 ? ", " : "", NameStr(attr->attname));
		append_value(&buf, attr, slot);
	}
	ReleaseSysCache(tuple);
	appendStringInfoChar(&buf, ')');
	return buf.data;
}

static char *
list_states(JobstateMachine *machine, bool (*wanted) (JobstateMachine *, int, int),
			int from)
{
	StringInfoData buf;
	int			i;

	initStringInfo(&buf);
	for (i = 0; i < machine->nstates; i++)
		if (wanted(machine, from, i))
			appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "",
							 machine->state[i].name);
	return buf.data;
}

static bool
is_next(JobstateMachine *machine, int from, int to)
{
	return from != to && jobstate_machine_allows(machine, from, to);
}

static bool
is_initial(JobstateMachine *machine, int from, int to)
{
	return machine->state[to].is_initial;
}

static bool
is_terminal(JobstateMachine *machine, int from, int to)
{
	return machine->state[to].is_terminal;
}

static bool
is_any(JobstateMachine *machine, int from, int to)
{
	return true;
}

static int
hint_next(JobstateMachine *machine, int from)
{
	char	   *states = list_states(machine, is_next, from);

	if (states[0] == '\0')
		return errhint("State \"%s\" is final: no state follows it.",
					   machine->state[from].name);
	return errhint("Allowed next states: %s.", states);
}

/* Table, column and constraint, for drivers that read them */
static int
err_where(JobstateWatched *watched, Relation rel)
{
	errtablecol(rel, watched->state_attno);
	return err_generic_string(PG_DIAG_CONSTRAINT_NAME, JOBSTATE_ROW_TRIGGER);
}

void
jobstate_error_illegal_move(JobstateWatched *watched, Relation rel,
							TupleTableSlot *slot, int from, int to)
{
	JobstateMachine *machine = watched->attachment->machine;
	bool		show = may_read(watched, rel, watched->state_attno);

	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("illegal state transition in relation \"%s\"",
					RelationGetRelationName(rel)),
			 show ? errdetail("%s: %s -> %s", describe_row(watched, rel, slot),
							  machine->state[from].name,
							  machine->state[to].name) : 0,
			 show ? hint_next(machine, from) : 0,
			 err_where(watched, rel)));
}

void
jobstate_error_illegal_insert(JobstateWatched *watched, Relation rel,
							  TupleTableSlot *slot, int state)
{
	JobstateMachine *machine = watched->attachment->machine;

	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("illegal initial state in relation \"%s\"",
					RelationGetRelationName(rel)),
			 may_read(watched, rel, watched->state_attno) ?
			 errdetail("%s: %s", describe_row(watched, rel, slot),
					   machine->state[state].name) : 0,
			 errhint("Allowed initial states: %s.",
					 list_states(machine, is_initial, 0)),
			 err_where(watched, rel)));
}

void
jobstate_error_unknown_state(JobstateWatched *watched, Relation rel,
							 TupleTableSlot *slot)
{
	JobstateMachine *machine = watched->attachment->machine;
	Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(rel),
										   watched->state_attno - 1);
	StringInfoData buf;

	initStringInfo(&buf);
	append_value(&buf, attr, slot);
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("unknown state in column \"%s\" of relation \"%s\"",
					NameStr(attr->attname), RelationGetRelationName(rel)),
			 may_read(watched, rel, watched->state_attno) ?
			 errdetail("%s: %s is no state of machine \"%s\".",
					   describe_row(watched, rel, slot), buf.data, machine->name) : 0,
			 errhint("States of the machine: %s.",
					 list_states(machine, is_any, 0)),
			 err_where(watched, rel)));
}

/* The same, met while counting rows that are there already */
void
jobstate_error_unknown_state_counted(JobstateAttachment *attachment,
									 const char *value, int64 n)
{
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("unknown state in column \"%s\" of relation \"%s\"",
					NameStr(attachment->state_column),
					get_rel_name(attachment->target)),
			 errdetail("%lld rows: %s is no state of machine \"%s\".",
					   (long long) n, value ? value : "null",
					   attachment->machine->name),
			 errhint("Use jobstate.check() to see every problem, and mend the rows first.")));
}

/* The tables that a derived table's state follows from */
static char *
list_children(JobstateAttachment *parent)
{
	StringInfoData buf;
	ListCell   *cell;

	initStringInfo(&buf);
	foreach(cell, parent->sources)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "",
						 get_rel_name(((JobstateDerivation *) lfirst(cell))->child));
	return buf.data;
}

/* Somebody writes a state that is not his to say. */
void
jobstate_error_derived(JobstateWatched *watched, Relation rel,
					   TupleTableSlot *slot, int from, int to)
{
	JobstateMachine *machine = watched->attachment->machine;

	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("the state of relation \"%s\" is derived",
					RelationGetRelationName(rel)),
			 may_read(watched, rel, watched->state_attno) ?
			 errdetail("%s: %s -> %s", describe_row(watched, rel, slot),
					   machine->state[from].name, machine->state[to].name) : 0,
			 errhint("It follows from the rows of %s. Change those, or use jobstate.underive().",
					 list_children(watched->attachment)),
			 err_where(watched, rel)));
}

/* A trigger or a policy kept derive from writing. */
void
jobstate_error_derived_lost(JobstateAttachment *parent)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
			 errmsg("the derived state of relation \"%s\" was not written",
					get_rel_name(parent->target)),
			 errhint("A BEFORE UPDATE trigger must not suppress the update, nor change the key.")));
}

void
jobstate_error_derive_key(Oid parent)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("key columns no longer fit the primary key of derived relation \"%s\"",
					get_rel_name(parent)),
			 errhint("Use jobstate.underive() and jobstate.derive() to define it anew.")));
}

void
jobstate_error_derive_cycle(Oid parent)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the state of relation \"%s\" would follow from itself",
					get_rel_name(parent)),
			 errhint("Parents and children are different tables, and no table is both above and below another.")));
}

void
jobstate_error_too_many_keys(int n, int max)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("cannot derive by a key of %d columns", n),
			 errhint("At most %d are possible.", max)));
}

void
jobstate_error_not_derived(Oid parent)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("relation \"%s\" has no derived state", get_rel_name(parent)),
			 errhint("Use jobstate.derive() first, or see the view jobstate.derivations.")));
}

void
jobstate_error_derived_already(Oid parent, Oid child)
{
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("relation \"%s\" is already derived from relation \"%s\"",
					get_rel_name(parent), get_rel_name(child)),
			 errhint("Use jobstate.underive() first.")));
}

/* The table cannot be let go while a state depends on it. */
void
jobstate_error_in_derivation(Oid target, Oid parent, Oid child)
{
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot detach relation \"%s\"", get_rel_name(target)),
			 errdetail("The state of relation \"%s\" is derived from relation \"%s\".",
					   get_rel_name(parent), get_rel_name(child)),
			 errhint("Use jobstate.underive() first.")));
}

void
jobstate_error_no_rule_set(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("rule set \"%s\" does not exist", name),
			 errhint("Make it with jobstate.define_rules(), or see the view jobstate.rules.")));
}

void
jobstate_error_no_order(TupleDesc desc, AttrNumber attno)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("column \"%s\" cannot order children",
					NameStr(TupleDescAttr(desc, attno - 1)->attname)),
			 errdetail("Its type has no order.")));
}

void
jobstate_error_no_edge(JobstateAttachment *attachment, int from, int to)
{
	JobstateMachine *machine = attachment->machine;

	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("machine \"%s\" has no transition from \"%s\" to \"%s\"",
					machine->name, machine->state[from].name,
					machine->state[to].name),
			 hint_next(machine, from)));
}

void
jobstate_error_no_state(JobstateAttachment *attachment, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("machine \"%s\" has no state \"%s\"",
					attachment->machine->name, name),
			 errhint("States of the machine: %s.",
					 list_states(attachment->machine, is_any, 0))));
}

void
jobstate_error_not_terminal(JobstateAttachment *attachment, int state)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("state \"%s\" of machine \"%s\" is not terminal",
					attachment->machine->state[state].name,
					attachment->machine->name),
			 errhint("Terminal states of the machine: %s.",
					 list_states(attachment->machine, is_terminal, 0))));
}

/* A whole partition is to go, but not all of its rows are through. */
void
jobstate_error_not_done(JobstateAttachment *attachment, Oid part, int state, int64 n)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("relation \"%s\" holds rows that are not in a terminal state",
					get_rel_name(part)),
			 errdetail_plural(INT64_FORMAT " row is in state \"%s\".",
							  INT64_FORMAT " rows are in state \"%s\".", n,
							  n, attachment->machine->state[state].name),
			 errhint("Move them to another partition first.")));
}

void
jobstate_error_negative(JobstateAttachment *attachment, const char *group,
						const char *state, int64 n)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("count of state \"%s\" in relation \"%s\" is negative: %lld",
					state, get_rel_name(attachment->target), (long long) n),
			 errdetail("The group is %s.", group),
			 errhint("Rows were changed while the trigger was off. Run jobstate.verify() to see the drift and jobstate.rebuild() to mend it.")));
}

/* What stands in the log makes no sense. */
void
jobstate_error_damaged(const char *what, text *stored)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("a row of the counter log is damaged"),
			 errdetail("Its %s are \"%s\".", what, text_to_cstring(stored)),
			 errhint("Have the storage checked. TRUNCATE of all segment_* and base_* tables makes every table uncounted, and CALL jobstate.maintain() counts them again.")));
}

void
jobstate_error_snapshot_truncated(Oid target)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not count relation \"%s\" in an old snapshot",
					get_rel_name(target)),
			 errdetail("It was truncated or rewritten after the transaction took its snapshot."),
			 errhint("The transaction might succeed if retried.")));
}

void
jobstate_error_null(const char *argument)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("argument \"%s\" must not be null", argument)));
}

void
jobstate_error_not_positive(const char *argument)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("argument \"%s\" must be greater than zero", argument)));
}

void
jobstate_error_array_lengths(const char *one, const char *other)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("arrays \"%s\" and \"%s\" must be of the same length", one, other)));
}

void
jobstate_error_no_extension(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_SCHEMA),
			 errmsg("extension \"jobstate\" is not installed in this database"),
			 errhint("Run CREATE EXTENSION jobstate.")));
}

void
jobstate_error_no_machine(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("machine \"%s\" does not exist", name),
			 errhint("Make it with jobstate.define_machine(), or see the view jobstate.machines.")));
}

void
jobstate_error_too_many_states(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("machine \"%s\" has more than %d states", name,
					JOBSTATE_MAX_STATES)));
}

void
jobstate_error_key_too_long(int size, int max)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("group key takes %d bytes, maximum %d", size, max),
			 errhint("Group by a shorter column, such as an id or a hash of the long one.")));
}

void
jobstate_error_group_key_shape(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("group key must be a JSON object"),
			 errhint("Name the group columns, like {\"repo_id\": 42}.")));
}

void
jobstate_error_group_key_column(Oid target, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("\"%s\" is not a group column of relation \"%s\"", name,
					get_rel_name(target)),
			 errhint("The view jobstate.attachments tells what a table is grouped by.")));
}
