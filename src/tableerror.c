/*
 * src/tableerror.c
 *
 * What jobstate says of a table that cannot be what it is taken for: attached,
 * grouped by, pruned, or written without its triggers.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "error.h"

void
jobstate_error_no_table(Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("relation with OID %u does not exist", relid)));
}

void
jobstate_error_no_column(Relation rel, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("column \"%s\" of relation \"%s\" does not exist", name,
					RelationGetRelationName(rel))));
}

void
jobstate_error_column_type(Relation rel, const char *name, Oid type, Oid wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("column \"%s\" of relation \"%s\" is of type %s", name,
					RelationGetRelationName(rel), format_type_be(type)),
			 errdetail("It was made as %s.", format_type_be(wanted)),
			 errhint("Give it that type again.")));
}

void
jobstate_error_column_null(Relation rel, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("null value in column \"%s\" of relation \"%s\"", name,
					RelationGetRelationName(rel)),
			 errhint("Give it a value, and make the column NOT NULL again.")));
}

void
jobstate_error_column_not_positive(Relation rel, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("column \"%s\" of relation \"%s\" must be positive", name,
					RelationGetRelationName(rel))));
}

void
jobstate_error_wrong_index(Relation rel, Relation index)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("rows of relation \"%s\" cannot be found by index \"%s\"",
					RelationGetRelationName(rel), RelationGetRelationName(index)),
			 errhint("Make it again with the columns that it had.")));
}

void
jobstate_error_column_twice(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("column \"%s\" is named more than once", name),
			 errhint("Name each group column once, and the state column not among them.")));
}

void
jobstate_error_state_type(Relation rel, const char *name, Oid type)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("column \"%s\" of relation \"%s\" cannot hold a state", name,
					RelationGetRelationName(rel)),
			 errdetail("Its type is %s.", format_type_be(type)),
			 errhint("A state column is smallint or integer (the state's id), or text, varchar or an enum (its name).")));
}

void
jobstate_error_group_type(Relation rel, const char *name, Oid type)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("column \"%s\" of relation \"%s\" cannot be grouped by", name,
					RelationGetRelationName(rel)),
			 errdetail("Type %s has no hash or no btree operator class.",
					   format_type_be(type))));
}

void
jobstate_error_group_text(Relation rel, const char *name, Oid type)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("column \"%s\" of relation \"%s\" cannot be grouped by", name,
					RelationGetRelationName(rel)),
			 errdetail("The text of type %s changes when an object or a label is renamed, or a type altered.",
					   format_type_be(type)),
			 errhint("Group by the OID, the plain enum, or the fields as columns of their own.")));
}

void
jobstate_error_virtual(Relation rel, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("column \"%s\" of relation \"%s\" is a virtual generated column",
					name, RelationGetRelationName(rel)),
			 errdetail("A trigger does not see its value."),
			 errhint("Make it a stored generated column.")));
}

void
jobstate_error_rollup_by_others(Oid target)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("relation \"%s\" has a rollup by other group columns",
					get_rel_name(target)),
			 errhint("Attach it by the same columns, or let a superuser delete its rows from jobstate.rollup first.")));
}

void
jobstate_error_enum_in_use(const char *label, Oid target)
{
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot rename label \"%s\": it is a state", label),
			 errdetail("Relation \"%s\" is attached by a column of this type.",
					   get_rel_name(target)),
			 errhint("Use jobstate.detach() first.")));
}

void
jobstate_error_age_type(Relation rel, const char *name, Oid type)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("column \"%s\" of relation \"%s\" tells no age", name,
					RelationGetRelationName(rel)),
			 errdetail("Its type is %s.", format_type_be(type)),
			 errhint("An age column is timestamptz, timestamp or date.")));
}

void
jobstate_error_too_many_groups(int n, int max)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("cannot group by %d columns", n),
			 errhint("At most %d are possible.", max)));
}

void
jobstate_error_not_attached(Oid target)
{
	if (get_rel_name(target) == NULL)
		jobstate_error_no_table(target);
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("relation \"%s\" is not attached", get_rel_name(target)),
			 errhint("Attach it with jobstate.attach(), or name the table that it is a partition of.")));
}

void
jobstate_error_attached(Oid target, Oid root)
{
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("relation \"%s\" is already attached", get_rel_name(target)),
			 root != target ? errdetail("It is part of relation \"%s\".",
										get_rel_name(root)) : 0,
			 errhint("Use jobstate.detach() first.")));
}

void
jobstate_error_wrong_kind(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" is not an ordinary or partitioned table",
					RelationGetRelationName(rel))));
}

void
jobstate_error_not_ordinary(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" is not an ordinary table", RelationGetRelationName(rel))));
}

void
jobstate_error_wrong_persistence(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot attach temporary or unlogged relation \"%s\"",
					RelationGetRelationName(rel)),
			 errdetail("Its rows can vanish without a statement that could be counted.")));
}

void
jobstate_error_no_key(Oid target, bool single)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 single ?
			 errmsg("relation \"%s\" has no integer column that identifies a row",
					get_rel_name(target)) :
			 errmsg("relation \"%s\" has no primary key", get_rel_name(target)),
			 single ?
			 errhint("Give it a primary key of one integer column, or a unique integer column that is not null.") : 0));
}

void
jobstate_error_row_security(Oid target)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("row-level security hides rows of relation \"%s\" from you",
					get_rel_name(target)),
			 errdetail("Counts are of all rows."),
			 errhint("Let a role that may see all rows ask, in a SECURITY DEFINER function.")));
}

void
jobstate_error_trigger_protocol(const char *function)
{
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("function \"jobstate.%s\" was not called by the trigger it is for",
					function),
			 errhint("Let jobstate.attach() make the triggers.")));
}

void
jobstate_error_trigger_unattached(Relation rel, Trigger *trigger)
{
	ereport(ERROR,
			(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
			 errmsg("relation \"%s\" has trigger \"%s\" but is not attached",
					RelationGetRelationName(rel), trigger->tgname),
			 errhint("Drop the trigger, and attach the table with jobstate.attach().")));
}

void
jobstate_error_triggers_off(Oid target)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the triggers of relation \"%s\" are disabled or missing",
					get_rel_name(target)),
			 errhint("Enable them with ALTER TABLE ... ENABLE ALWAYS TRIGGER, or detach and attach the table.")));
}

void
jobstate_error_statement_trigger(Relation rel, Trigger *trigger)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("relation \"%s\" has a statement-level trigger, which this function does not fire",
					RelationGetRelationName(rel)),
			 errdetail("Trigger \"%s\".", trigger->tgname),
			 errhint("Make it a row-level trigger, or disable it.")));
}

void
jobstate_error_no_partition(Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("relation \"%s\" is not a partition that has rows of its own",
					get_rel_name(relid)),
			 errhint("Use jobstate.prune() for a whole table.")));
}
