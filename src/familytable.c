/*
 * src/familytable.c
 *
 * A family's table as C opens it.
 *
 * Problem: the families' tables are the application's own.  Their owner is no
 * superuser, and may give a column another type, drop a key, or put another
 * relation in a table's place; a value that is taken for what it is not crashes
 * the server, or shows its memory.
 * Solution: what C takes for granted is looked at here, each time that a table is
 * opened, under a lock that keeps it so.
 * Non-problems: constraints and triggers that are gone, and rows that break them.
 * They make wrong answers for the owner of the table, no crash.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "catalog/partition.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"

#include "compat.h"
#include "error.h"
#include "familytable.h"

/* Opens a table that has rows of its own. */
Relation
jobstate_family_table_open(Oid relid, LOCKMODE lockmode)
{
	Relation	rel = table_open(relid, lockmode);

	if (rel->rd_rel->relkind != RELKIND_RELATION || rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		jobstate_error_not_ordinary(rel);
	return rel;
}

/* Opens a table that is partitioned by lists of slots, which are of type smallint. */
Relation
jobstate_slotted_table_open(Oid relid, LOCKMODE lockmode)
{
	Relation	rel = table_open(relid, lockmode);
	PartitionKey key = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ?
		RelationGetPartitionKey(rel) : NULL;

	if (key == NULL || key->strategy != PARTITION_STRATEGY_LIST ||
		key->parttypid[0] != INT2OID)
		jobstate_error_not_by_slot(rel);
	return rel;
}

/* Columns keep their place unless somebody altered the table. */
AttrNumber
jobstate_family_column(Relation rel, const JobstateColumn *column)
{
	TupleDesc	desc = RelationGetDescr(rel);
	AttrNumber	attno = column->place;
	Oid			type;

	if (attno <= 0 || attno > desc->natts ||
		strcmp(NameStr(TupleDescAttr(desc, attno - 1)->attname), column->name) != 0)
		attno = get_attnum(RelationGetRelid(rel), column->name);
	if (attno <= 0)
		jobstate_error_no_column(rel, column->name);
	type = TupleDescAttr(desc, attno - 1)->atttypid;
	if (type != column->type && getBaseType(type) != column->type)
		jobstate_error_column_type(rel, column->name, type, column->type);
	return attno;
}

/* Opens an index by whose first column rows of the table are found. */
Relation
jobstate_family_index_open(Relation rel, Oid relid, AttrNumber attno, LOCKMODE lockmode)
{
	Relation	index = index_open(relid, lockmode);
	Form_pg_index form = index->rd_index;

	if (form->indrelid != RelationGetRelid(rel) || !form->indisvalid ||
		index->rd_rel->relam != BTREE_AM_OID ||
		(attno > 0 && form->indkey.values[0] != attno) ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
		jobstate_error_wrong_index(rel, index);
	return index;
}

/* Opens the primary key; attno 0: all rows are wanted. */
Relation
jobstate_family_key_open(Relation rel, AttrNumber attno, LOCKMODE lockmode)
{
	Oid			relid = jobstate_primary_key(rel);

	if (!OidIsValid(relid))
		jobstate_error_no_key(RelationGetRelid(rel), false);
	return jobstate_family_index_open(rel, relid, attno, lockmode);
}
