/*
 * src/derivation.c
 *
 * The rows of jobstate.derivation, read without SQL: under the newest snapshot,
 * whatever the transaction's own is.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog.h"
#include "derivation.h"
#include "error.h"

/* jobstate.derivation, as the install script makes it */
enum
{
	Anum_derivation_parent = 1,
	Anum_derivation_child,
	Anum_derivation_ord,
	Anum_derivation_key,
	Anum_derivation_rule_set,
	Anum_derivation_completed_at,
	Anum_derivation_error,
	Anum_derivation_reason,
	Anum_derivation_child_error,
	Anum_derivation_child_variant,
	Anum_derivation_child_order
};
#define DERIVATION_COLUMNS	Anum_derivation_child_order

static char *
name_of(Datum *value, bool *isnull, int attnum)
{
	if (isnull[attnum - 1])
		return NULL;
	return pstrdup(NameStr(*DatumGetName(value[attnum - 1])));
}

static List *
names_of(Datum *value, bool *isnull, int attnum)
{
	List	   *names = NIL;
	Datum	   *name;
	int			n;
	int			i;

	if (isnull[attnum - 1])
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(value[attnum - 1]), NAMEOID, NAMEDATALEN,
					  false, TYPALIGN_CHAR, &name, NULL, &n);
	for (i = 0; i < n; i++)
		names = lappend(names, pstrdup(NameStr(*DatumGetName(name[i]))));
	return names;
}

static JobstateDerivation *
read_row(HeapTuple tuple, TupleDesc desc)
{
	JobstateDerivation *row = palloc0(sizeof(JobstateDerivation));
	Datum		value[DERIVATION_COLUMNS];
	bool		isnull[DERIVATION_COLUMNS];

	heap_deform_tuple(tuple, desc, value, isnull);
	row->parent = DatumGetObjectId(value[Anum_derivation_parent - 1]);
	row->child = DatumGetObjectId(value[Anum_derivation_child - 1]);
	row->ord = DatumGetInt16(value[Anum_derivation_ord - 1]);
	row->key = names_of(value, isnull, Anum_derivation_key);
	row->rule_set = TextDatumGetCString(value[Anum_derivation_rule_set - 1]);
	row->completed_at = name_of(value, isnull, Anum_derivation_completed_at);
	row->error = name_of(value, isnull, Anum_derivation_error);
	row->reason = name_of(value, isnull, Anum_derivation_reason);
	row->child_error = name_of(value, isnull, Anum_derivation_child_error);
	row->child_variant = name_of(value, isnull, Anum_derivation_child_variant);
	row->child_order = names_of(value, isnull, Anum_derivation_child_order);
	return row;
}

static int
compare_ord(const ListCell *a, const ListCell *b)
{
	return ((JobstateDerivation *) lfirst(a))->ord - ((JobstateDerivation *) lfirst(b))->ord;
}

static List *
read_rows(Oid index, Oid relid)
{
	Relation	rel = table_open(jobstate_catalog()->derivation, AccessShareLock);
	List	   *rows = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, index == jobstate_catalog()->derivation_pkey ?
				Anum_derivation_parent : Anum_derivation_child,
				BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, index, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		rows = lappend(rows, read_row(tuple, RelationGetDescr(rel)));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return rows;
}

/* What this table's states are derived from, in the order of definition */
List *
jobstate_derivations_of_parent(Oid parent)
{
	List	   *rows = read_rows(jobstate_catalog()->derivation_pkey, parent);

	list_sort(rows, compare_ord);
	return rows;
}

/* What is derived from this table's states */
List *
jobstate_derivations_of_child(Oid child)
{
	return read_rows(jobstate_catalog()->derivation_child, child);
}

static AttrNumber
attno(Oid relid, const char *name)
{
	AttrNumber	found = name == NULL ? InvalidAttrNumber : get_attnum(relid, name);

	if (name != NULL && found == InvalidAttrNumber)
		elog(ERROR, "relation %u has no column \"%s\"", relid, name);
	return found;
}

/* Two collations mean the same equality if both have that of bytes. */
static bool
same_equality(Oid a, Oid b)
{
	return a == b || (get_collation_isdeterministic(a) && get_collation_isdeterministic(b));
}

static bool
begins_with(Relation index, Relation rel, AttrNumber *key, int nkeys)
{
	int			i;

	if (index->rd_rel->relam != BTREE_AM_OID || !index->rd_index->indisvalid ||
		index->rd_index->indnkeyatts < nkeys || RelationGetIndexPredicate(index) != NIL)
		return false;
	for (i = 0; i < nkeys; i++)
		if (index->rd_index->indkey.values[i] != key[i] ||
			!same_equality(index->rd_indcollation[i],
						   TupleDescAttr(RelationGetDescr(rel), key[i] - 1)->attcollation))
			return false;
	return true;
}

/* An index of the table by which the children of one parent can be found */
static Oid
find_index(Relation rel, AttrNumber *key, int nkeys)
{
	Oid			found = InvalidOid;
	ListCell   *cell;

	foreach(cell, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		if (!OidIsValid(found) && begins_with(index, rel, key, nkeys))
			found = lfirst_oid(cell);
		index_close(index, NoLock);
	}
	return found;
}

static bool
has_column(AttrNumber *key, int nkeys, AttrNumber attno)
{
	int			i;

	for (i = 0; i < nkeys; i++)
		if (key[i] == attno)
			return true;
	return false;
}

/* Does a foreign key see to it that the parent is there? */
static bool
find_foreign_key(Relation rel, Oid parent, AttrNumber *key, int nkeys)
{
	ListCell   *cell;
	int			i;

	foreach(cell, RelationGetFKeyList(rel))
	{
		ForeignKeyCacheInfo *fk = lfirst(cell);
		bool		same = fk->confrelid == parent && fk->nkeys == nkeys;

		for (i = 0; same && i < nkeys; i++)
			same = has_column(key, nkeys, fk->conkey[i]);
		if (same)
			return true;
	}
	return false;
}

/* Where a child's table, or a partition of it, has the derivation's columns */
JobstateLink *
jobstate_link(Oid relid, JobstateDerivation *derivation)
{
	JobstateLink *link = palloc0(sizeof(JobstateLink));
	Relation	rel = table_open(relid, AccessShareLock);
	ListCell   *cell;
	int			n = 0;

	link->derivation = derivation;
	if (list_length(derivation->key) > JOBSTATE_MAX_GROUP)
		jobstate_error_too_many_keys(list_length(derivation->key), JOBSTATE_MAX_GROUP);
	foreach(cell, derivation->key)
		link->key[n++] = attno(relid, lfirst(cell));
	link->error = attno(relid, derivation->child_error);
	link->variant = attno(relid, derivation->child_variant);
	link->order = palloc(sizeof(AttrNumber) * (list_length(derivation->child_order) + 1));
	foreach(cell, derivation->child_order)
		link->order[link->norder++] = attno(relid, lfirst(cell));
	link->index = find_index(rel, link->key, n);
	link->has_foreign_key = find_foreign_key(rel, derivation->parent, link->key, n);
	table_close(rel, NoLock);
	return link;
}
