/*
 * src/ddl.c
 *
 * What DDL and TRUNCATE do to watched tables.
 *
 * Renames are followed.  Whatever may change a table's rows or go unseen by
 * its trigger (a partition that comes or goes, another type, a trigger that is
 * switched off) makes it uncounted: counts() scans it until recount() or
 * rebuild().  TRUNCATE is booked.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "attach.h"
#include "attachmentrow.h"
#include "catalog.h"
#include "ddl.h"
#include "error.h"
#include "recount.h"
#include "tally.h"
#include "touched.h"

PG_FUNCTION_INFO_V1(jobstate_ddl_command_start);
PG_FUNCTION_INFO_V1(jobstate_ddl_command_end);
PG_FUNCTION_INFO_V1(jobstate_uncount);
PG_FUNCTION_INFO_V1(jobstate_uncount_dropped);
PG_FUNCTION_INFO_V1(jobstate_watch_truncate);

/* The partition that is being truncated after its rows were booked */
static Oid	booked_partition = InvalidOid;

/* The watched table that relid is or is part of gets an epoch without marker. */
static void
uncount(Oid relid)
{
	Oid			root = jobstate_attached_root(relid);

	if (!OidIsValid(root))
		return;
	LockRelationOid(root, ShareUpdateExclusiveLock);
	(void) jobstate_attachment_set_epoch(root);
}

/*
 * Rows of a watched table came or went together with a partition: states that
 * follow from them are derived anew, and their own if they follow from others.
 */
static void
touch_parents(Oid relid)
{
	Oid			root = jobstate_attached_root(relid);

	if (!OidIsValid(root))
		return;
	jobstate_touch_parents_of(root);
	if (jobstate_derivations_of_parent(root) != NIL)
		jobstate_touch_all(root);
}

/*
 * A table was dropped: what was it a partition of?  Its row in pg_inherits is
 * deleted by this transaction, but the tuple is still there to be seen.
 */
static Oid
parent_of_dropped(Oid relid)
{
	Relation	rel = table_open(InheritsRelationId, AccessShareLock);
	Oid			parent = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, InheritsRelidSeqnoIndexId, true, SnapshotAny,
							  1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(tuple->t_data)))
			parent = ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return parent;
}

/* uncount_dropped(oid) returns void: its rows left the table it belonged to */
Datum
jobstate_uncount_dropped(PG_FUNCTION_ARGS)
{
	Oid			parent = parent_of_dropped(PG_GETARG_OID(0));

	if (OidIsValid(parent) && get_rel_name(parent) != NULL)
	{
		uncount(parent);
		touch_parents(parent);
	}
	PG_RETURN_VOID();
}

/* uncount(target) returns void */
Datum
jobstate_uncount(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("uncount()");
	if (!PG_ARGISNULL(0))
		uncount(PG_GETARG_OID(0));
	PG_RETURN_VOID();
}

/* One SQL statement on our catalogue, as its owner. */
static void
update_names(const char *sql, Oid target, const char *old, const char *new)
{
	Oid			types[] = {OIDOID, TEXTOID, TEXTOID};
	Datum		values[3];

	values[0] = ObjectIdGetDatum(target);
	values[1] = CStringGetTextDatum(old);
	values[2] = CStringGetTextDatum(new);
	jobstate_catalog_write(sql, 3, types, values, NULL, SPI_OK_UPDATE);
}

/* A column that derive() was told of has a new name. */
static void
follow_derivation(Oid relid, const char *old, const char *new)
{
	static const char *const columns[] = {
		"completed_at", "error", "reason", "child_error", "child_variant"
	};
	int			i;

	for (i = 0; i < lengthof(columns); i++)
		update_names(psprintf("UPDATE jobstate.derivation SET %1$s = $3"
							  " WHERE %2$s OPERATOR(pg_catalog.=) $1"
							  " AND %1$s OPERATOR(pg_catalog.=) $2",
							  columns[i], i < 3 ? "parent" : "child"),
					 relid, old, new);
	update_names("UPDATE jobstate.derivation SET"
				 " key = pg_catalog.array_replace(key, $2::pg_catalog.name, $3::pg_catalog.name),"
				 " child_order = pg_catalog.array_replace(child_order, $2::pg_catalog.name, $3::pg_catalog.name)"
				 " WHERE child OPERATOR(pg_catalog.=) $1",
				 relid, old, new);
}

/*
 * A column has a new name.  The attachment still has the old one, so it cannot
 * be compiled: it is only looked up.
 */
static void
follow_column(Oid relid, const char *old, const char *new)
{
	JobstateAttachmentRow row;
	ListCell   *cell;

	foreach(cell, find_all_inheritors(relid, NoLock, NULL))
	{
		if (!jobstate_attachment_row(lfirst_oid(cell), &row))
			continue;
		follow_derivation(lfirst_oid(cell), old, new);
		update_names("UPDATE jobstate.attachment SET"
					 " state_column = CASE WHEN state_column OPERATOR(pg_catalog.=) $2"
					 " THEN $3::pg_catalog.name ELSE state_column END,"
					 " group_by = pg_catalog.array_replace(group_by, $2::pg_catalog.name, $3::pg_catalog.name)"
					 " WHERE target OPERATOR(pg_catalog.=) $1",
					 lfirst_oid(cell), old, new);
		update_names("UPDATE jobstate.rollup SET group_key ="
					 " (group_key OPERATOR(pg_catalog.-) $2) OPERATOR(pg_catalog.||)"
					 " pg_catalog.jsonb_build_object($3, group_key OPERATOR(pg_catalog.->) $2)"
					 " WHERE target OPERATOR(pg_catalog.=) $1"
					 " AND group_key OPERATOR(pg_catalog.?) $2",
					 lfirst_oid(cell), old, new);
	}
}

/* The attached tables that were created OF this type. */
static List *
attached_of_type(Oid type)
{
	List	   *tables = NIL;
	ListCell   *cell;

	foreach(cell, jobstate_attachment_targets())
	{
		HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(lfirst_oid(cell)));

		if (!HeapTupleIsValid(tuple))
			continue;
		if (OidIsValid(type) && ((Form_pg_class) GETSTRUCT(tuple))->reloftype == type)
			tables = lappend_oid(tables, lfirst_oid(cell));
		ReleaseSysCache(tuple);
	}
	return tables;
}

/* An attribute of a type has a new name, and so have columns of its tables. */
static void
follow_attribute(Oid type, const char *old, const char *new)
{
	ListCell   *cell;

	foreach(cell, attached_of_type(type))
		follow_column(lfirst_oid(cell), old, new);
}

/*
 * An enum has a new label.  In the log it is an OID, in the rollup it is text.
 * As the name of a state it is not ours to change.
 */
static void
follow_label(AlterEnumStmt *stmt)
{
	Oid			type = typenameTypeId(NULL, makeTypeNameFromNameList(stmt->typeName));
	ListCell   *cell;

	foreach(cell, jobstate_attachment_targets())
	{
		JobstateAttachment *attachment;
		int			i;

		if (!jobstate_attachment_is_sound(lfirst_oid(cell)))
			continue;
		attachment = jobstate_attachment(lfirst_oid(cell));
		if (getBaseType(attachment->state_type) == type &&
			jobstate_machine_by_name(attachment->machine, stmt->oldVal,
									 strlen(stmt->oldVal)) >= 0)
			jobstate_error_enum_in_use(stmt->oldVal, attachment->target);
		for (i = 0; i < attachment->key.ncolumns; i++)
			if (attachment->key.column[i].base_type == type)
				update_names(psprintf("UPDATE jobstate.rollup SET group_key ="
									  " pg_catalog.jsonb_set(group_key, ARRAY[%1$s], pg_catalog.to_jsonb($3))"
									  " WHERE target OPERATOR(pg_catalog.=) $1"
									  " AND group_key OPERATOR(pg_catalog.->>) %1$s OPERATOR(pg_catalog.=) $2",
									  quote_literal_cstr(NameStr(attachment->key.column[i].name))),
							 attachment->target, stmt->oldVal, stmt->newVal);
	}
}

static void
follow_rename(RenameStmt *stmt)
{
	Oid			relid;

	if (stmt->relation == NULL ||
		(stmt->renameType != OBJECT_COLUMN && stmt->renameType != OBJECT_ATTRIBUTE))
		return;
	relid = RangeVarGetRelid(stmt->relation, NoLock, true);
	if (!OidIsValid(relid))
		return;
	if (stmt->renameType == OBJECT_COLUMN)
		follow_column(relid, stmt->subname, stmt->newname);
	else
		follow_attribute(get_rel_type_id(relid), stmt->subname, stmt->newname);
}

/* Rows that come in without passing the guard must be in known states, too. */
static void
require_known_states(Oid root, Oid relid)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	(void) jobstate_recount(jobstate_attachment(root), relid, NULL, snapshot,
							jobstate_sums_create(CurrentMemoryContext));
	UnregisterSnapshot(snapshot);
}

/* The table and those below it have another type, or other values, in some column. */
static void
follow_type(Oid relid)
{
	ListCell   *cell;

	foreach(cell, find_all_inheritors(relid, NoLock, NULL))
	{
		Oid			root = jobstate_attached_root(lfirst_oid(cell));

		if (OidIsValid(root))
		{
			uncount(root);
			require_known_states(root, lfirst_oid(cell));
		}
	}
}

static Oid
partition_of(AlterTableCmd *command)
{
	PartitionCmd *partition = castNode(PartitionCmd, command->def);

	return RangeVarGetRelid(partition->name, NoLock, true);
}

static void
follow_alter(Oid relid, AlterTableCmd *command)
{
	Oid			root = jobstate_attached_root(relid);
	Oid			partition;

	if (jobstate_alters_values(command))
	{
		ListCell   *cell;

		follow_type(relid);
		foreach(cell, attached_of_type(get_rel_type_id(relid)))
			follow_type(lfirst_oid(cell));
	}
	if (!OidIsValid(root))
		return;
	switch (command->subtype)
	{
		case AT_AttachPartition:
			partition = partition_of(command);
			uncount(root);
			touch_parents(root);
			if (OidIsValid(partition))
			{
				jobstate_attach_partition(partition);
				require_known_states(root, partition);
			}
			break;
		case AT_DetachPartition:
		case AT_DetachPartitionFinalize:
			partition = partition_of(command);
			if (OidIsValid(partition))
				jobstate_detach_partition(partition);
			uncount(root);
			touch_parents(root);
			break;
		case AT_DisableTrig:
		case AT_DisableTrigAll:
		case AT_DisableTrigUser:
		case AT_EnableReplicaTrig:
			uncount(root);
			break;
		case AT_SetUnLogged:
			{
				Relation	rel = table_open(relid, AccessShareLock);

				jobstate_error_wrong_persistence(rel);
			}
			break;
		default:
			break;
	}
}

/*
 * A new partition is empty, but needs its trigger for TRUNCATE.  The server
 * tells what was created, also within CREATE SCHEMA.
 */
static void
follow_create(void)
{
	uint64		i;

	jobstate_spi_connect();
	if (SPI_execute("SELECT objid FROM pg_catalog.pg_event_trigger_ddl_commands()"
					" WHERE (command_tag OPERATOR(pg_catalog.=) 'CREATE TABLE'"
					" AND object_type OPERATOR(pg_catalog.=) 'table')"
					" OR object_type OPERATOR(pg_catalog.=) 'foreign table'",
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read what was created");
	for (i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Oid			relid = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
														   SPI_tuptable->tupdesc,
														   1, &isnull));

		if (OidIsValid(jobstate_attached_root(relid)))
			jobstate_attach_partition(relid);
	}
	jobstate_spi_finish();
}

/*
 * Event trigger, on ddl_command_start.  DETACH PARTITION ... CONCURRENTLY
 * commits halfway, and its rows are gone then: what follows at its end would
 * come late, or never if the second half is cancelled.
 */
Datum
jobstate_ddl_command_start(PG_FUNCTION_ARGS)
{
	AlterTableStmt *stmt;
	Oid			relid;
	ListCell   *cell;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		jobstate_error_trigger_protocol("ddl_command_start");
	stmt = (AlterTableStmt *) ((EventTriggerData *) fcinfo->context)->parsetree;
	if (!IsA(stmt, AlterTableStmt))
		PG_RETURN_NULL();
	foreach(cell, stmt->cmds)
	{
		AlterTableCmd *command = lfirst_node(AlterTableCmd, cell);

		if (command->subtype != AT_DetachPartition ||
			!castNode(PartitionCmd, command->def)->concurrent)
			continue;
		relid = RangeVarGetRelid(stmt->relation, NoLock, true);
		if (OidIsValid(relid))
			uncount(relid);
	}
	PG_RETURN_NULL();
}

/* Event trigger, on ddl_command_end */
Datum
jobstate_ddl_command_end(PG_FUNCTION_ARGS)
{
	Node	   *tree;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		jobstate_error_trigger_protocol("ddl_command_end");
	tree = ((EventTriggerData *) fcinfo->context)->parsetree;

	if (IsA(tree, RenameStmt))
		follow_rename((RenameStmt *) tree);
	else if (IsA(tree, AlterEnumStmt) && ((AlterEnumStmt *) tree)->oldVal != NULL)
		follow_label((AlterEnumStmt *) tree);
	else if (IsA(tree, AlterTableStmt))
	{
		AlterTableStmt *stmt = (AlterTableStmt *) tree;
		Oid			relid = RangeVarGetRelid(stmt->relation, NoLock, true);
		ListCell   *cell;

		foreach(cell, OidIsValid(relid) ? stmt->cmds : NIL)
			follow_alter(relid, lfirst_node(AlterTableCmd, cell));
	}
	else if (IsA(tree, CreateSchemaStmt) || IsA(tree, CreateForeignTableStmt) ||
			 (IsA(tree, CreateStmt) && ((CreateStmt *) tree)->partbound != NULL))
		follow_create();
	PG_RETURN_NULL();
}

/*
 * Books the negative of what a partition holds.  TRUNCATE's lock keeps
 * everybody else out, so the newest snapshot sees all there is.
 */
static void
book_partition(JobstateAttachment *attachment, Oid relid)
{
	JobstateSums *sums = jobstate_sums_create(CurrentMemoryContext);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	JobstateSum **sum;
	int			n;
	int			i;
	int			j;

	(void) jobstate_recount(attachment, relid, NULL, snapshot, sums);
	UnregisterSnapshot(snapshot);
	n = jobstate_sums_list(sums, &sum);
	for (i = 0; i < n; i++)
		for (j = 0; j < sum[i]->deltas.n; j++)
		{
			JobstateDelta *delta = &sum[i]->deltas.delta[j];
			JobstateFact fact;

			jobstate_key_from_text(&attachment->key, sum[i]->key, &fact.key);
			fact.state = jobstate_machine_by_id(attachment->machine, delta->state_id);
			jobstate_tally_add(attachment, &fact, -delta->n);
		}
	jobstate_tally_truncated(attachment);
}

/* BEFORE TRUNCATE, for each table that has rows */
Datum
jobstate_watch_truncate(PG_FUNCTION_ARGS)
{
	TriggerData *event = (TriggerData *) fcinfo->context;
	Oid			relid;
	Oid			root;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(event->tg_event) ||
		!TRIGGER_FIRED_BY_TRUNCATE(event->tg_event) ||
		strcmp(event->tg_trigger->tgname, JOBSTATE_TRUNCATE_TRIGGER) != 0)
		jobstate_error_trigger_protocol("watch_truncate");

	relid = RelationGetRelid(event->tg_relation);
	root = jobstate_attached_root(relid);
	if (!OidIsValid(root))
		jobstate_error_trigger_unattached(event->tg_relation, event->tg_trigger);
	touch_parents(root);
	if (relid == booked_partition)
		jobstate_tally_truncated(jobstate_attachment(root));
	else if (root != relid)
		book_partition(jobstate_attachment(root), relid);
	else
	{
		/* empty from here on: a new epoch that is counted at once */
		(void) jobstate_attachment_set_epoch(root);
		jobstate_attach_mark_counted(jobstate_attachment(root));
	}
	return PointerGetDatum(NULL);
}

/*
 * Truncates a partition, as the caller, who has locked it and has told the
 * tally of its rows.
 */
void
jobstate_truncate_booked(Oid part)
{
	char	   *sql = psprintf("TRUNCATE %s", jobstate_table_name(part));
	Oid			before = booked_partition;

	booked_partition = part;
	PG_TRY();
	{
		jobstate_spi_connect();
		if (SPI_execute(sql, false, 0) != SPI_OK_UTILITY)
			elog(ERROR, "unexpected result of \"%s\"", sql);
		jobstate_spi_finish();
	}
	PG_FINALLY();
	{
		booked_partition = before;
	}
	PG_END_TRY();
}
