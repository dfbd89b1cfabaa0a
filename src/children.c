/*
 * src/children.c
 *
 * The children of one parent, read for its rules.
 */
#include "postgres.h"

#include "access/table.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "children.h"
#include "error.h"
#include "rowscan.h"

/* A column by which children are ordered */
typedef struct OrderColumn
{
	FmgrInfo   *compare;
	Oid			collation;
	bool		typbyval;
	int16		typlen;
} OrderColumn;

/* A child as it was read, with what it is sorted by */
typedef struct FoundChild
{
	JobstateChild child;
	char	   *error;
	Datum	   *value;
	bool	   *isnull;
} FoundChild;

typedef struct Reading
{
	int			norder;			/* 0: in any order */
	OrderColumn *order;
	int			n;
	int			max;
	FoundChild *found;
} Reading;

/* A column as text, or NULL */
static char *
text_of(TupleTableSlot *slot, AttrNumber attno)
{
	Oid			output;
	bool		varlena;
	bool		isnull;
	Datum		value;

	if (attno == InvalidAttrNumber)
		return NULL;
	value = slot_getattr(slot, attno, &isnull);
	if (isnull)
		return NULL;
	getTypeOutputInfo(TupleDescAttr(slot->tts_tupleDescriptor, attno - 1)->atttypid,
					  &output, &varlena);
	return OidOutputFunctionCall(output, value);
}

static void
prepare_order(Reading *reading, TupleDesc desc, JobstateLink *link)
{
	int			i;

	reading->norder = link->norder;
	reading->order = palloc(sizeof(OrderColumn) * (link->norder + 1));
	for (i = 0; i < link->norder; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, link->order[i] - 1);
		TypeCacheEntry *type = lookup_type_cache(attr->atttypid, TYPECACHE_CMP_PROC_FINFO);

		if (!OidIsValid(type->cmp_proc_finfo.fn_oid))
			jobstate_error_no_order(desc, link->order[i]);
		reading->order[i].compare = &type->cmp_proc_finfo;
		reading->order[i].collation = attr->attcollation;
		reading->order[i].typbyval = attr->attbyval;
		reading->order[i].typlen = attr->attlen;
	}
}

static int
compare_found(const void *a, const void *b, void *arg)
{
	const FoundChild *x = a;
	const FoundChild *y = b;
	Reading    *reading = arg;
	int			i;

	for (i = 0; i < reading->norder; i++)
	{
		int			order;

		if (x->isnull[i] || y->isnull[i])
			order = x->isnull[i] - y->isnull[i];
		else
			order = DatumGetInt32(FunctionCall2Coll(reading->order[i].compare,
													reading->order[i].collation,
													x->value[i], y->value[i]));
		if (order != 0)
			return order;
	}
	return 0;
}

static void
read_order(Reading *reading, FoundChild *found, JobstateLink *link, TupleTableSlot *slot)
{
	int			i;

	found->value = palloc(sizeof(Datum) * reading->norder);
	found->isnull = palloc(sizeof(bool) * reading->norder);
	for (i = 0; i < reading->norder; i++)
	{
		Datum		value = slot_getattr(slot, link->order[i], &found->isnull[i]);

		if (!found->isnull[i])
			found->value[i] = datumCopy(value, reading->order[i].typbyval,
										reading->order[i].typlen);
	}
}

static void
read_child(Reading *reading, JobstateWatched *watched, JobstateLink *link,
		   TupleTableSlot *slot)
{
	FoundChild *found;
	bool		isnull;
	Datum		value = slot_getattr(slot, watched->state_attno, &isnull);
	int			state = jobstate_state_index(watched->attachment, value, isnull);

	if (reading->n == reading->max)
	{
		reading->max = Max(16, reading->max * 2);
		if (reading->found == NULL)
			reading->found = palloc(sizeof(FoundChild) * reading->max);
		else
			reading->found = repalloc_huge(reading->found, sizeof(FoundChild) * reading->max);
	}
	found = &reading->found[reading->n++];
	found->child.state = state < 0 ? NULL : watched->attachment->machine->state[state].name;
	found->child.variant = text_of(slot, link->variant);
	found->error = text_of(slot, link->error);
	if (reading->norder > 0)
		read_order(reading, found, link, slot);
}

static JobstateLink *
link_to(JobstateWatched *watched, Oid parent)
{
	ListCell   *cell;

	foreach(cell, watched->links)
		if (((JobstateLink *) lfirst(cell))->derivation->parent == parent)
			return lfirst(cell);
	elog(ERROR, "relation %u is not derived from relation %u", parent, watched->relid);
}

/* Reads the children that lie in one table or partition. */
static void
read_table(Reading *reading, Oid relid, bool ordered, JobstateTouched *touched,
		   Snapshot snapshot)
{
	Relation	rel = table_open(relid, AccessShareLock);
	JobstateWatched *watched = jobstate_watched(relid);
	JobstateLink *link;
	JobstateRowScan *scan;

	if (watched == NULL)
		jobstate_error_not_attached(relid);
	link = link_to(watched, touched->parent->target);
	if (ordered && reading->order == NULL)
		prepare_order(reading, RelationGetDescr(rel), link);
	scan = jobstate_row_scan_begin(rel, link->index, touched->parent->row_key,
								   &touched->key, link->key, snapshot);
	while (jobstate_row_scan_next(scan))
		read_child(reading, watched, link, scan->slot);
	jobstate_row_scan_end(scan);
	table_close(rel, NoLock);
}

static JobstateChildren *
sorted(Reading *reading)
{
	JobstateChildren *children = palloc0(sizeof(JobstateChildren));
	int			i;

	if (reading->norder > 0 && reading->n > 1)
		qsort_arg(reading->found, reading->n, sizeof(FoundChild), compare_found, reading);
	children->n = reading->n;
	children->child = palloc_extended(sizeof(JobstateChild) * (reading->n + 1),
									  MCXT_ALLOC_HUGE);
	children->error = palloc_extended(sizeof(char *) * (reading->n + 1), MCXT_ALLOC_HUGE);
	for (i = 0; i < reading->n; i++)
	{
		children->child[i] = reading->found[i].child;
		children->error[i] = reading->found[i].error;
	}
	return children;
}

/* All children that the snapshot sees, in the derivation's order if asked to. */
JobstateChildren *
jobstate_children_read(JobstateDerivation *derivation, bool ordered,
					   JobstateTouched *touched, Snapshot snapshot)
{
	Reading		reading = {0};
	ListCell   *cell;

	foreach(cell, jobstate_tables_of(derivation->child, AccessShareLock))
		read_table(&reading, lfirst_oid(cell), ordered, touched, snapshot);
	return sorted(&reading);
}

/* May there be children of a parent that is not there yet?  A foreign key forbids it. */
bool
jobstate_children_may_precede(JobstateAttachment *parent)
{
	ListCell   *cell;

	foreach(cell, parent->sources)
	{
		JobstateWatched *watched = jobstate_watched(((JobstateDerivation *) lfirst(cell))->child);

		if (watched == NULL || !link_to(watched, parent->target)->has_foreign_key)
			return true;
	}
	return false;
}

/* The error of the first child that is in this state and has one, or NULL */
char *
jobstate_children_error(JobstateChildren *children, const char *state)
{
	int			i;

	for (i = 0; i < children->n; i++)
		if (children->error[i] != NULL && children->error[i][0] != '\0' &&
			children->child[i].state != NULL &&
			strcmp(children->child[i].state, state) == 0)
			return children->error[i];
	return NULL;
}
