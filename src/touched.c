/*
 * src/touched.c
 *
 * The parents whose children this transaction has touched.
 *
 * They are only remembered here; before commit derive.c looks at each.  A
 * savepoint that is rolled back takes none of them away: who looks at a parent
 * for nothing finds that nothing is to be done.
 * Problem: derive_now() may have written a parent within a savepoint, or have
 * failed there.  Rolling it back takes the write away, but not the change of a
 * child from before the savepoint.
 * Solution: what is looked at within a savepoint is kept until the transaction
 * ends, and remembered again whenever one is rolled back.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "error.h"
#include "recount.h"
#include "touched.h"

static bool
same_parent(JobstateTouched *a, JobstateTouched *b)
{
	return a->parent == b->parent &&
		jobstate_key_equal(a->parent->row_key, &a->key, &b->key);
}

typedef struct TouchedEntry
{
	JobstateTouched *touched;
	char		status;
} TouchedEntry;

#define SH_PREFIX touchedhash
#define SH_ELEMENT_TYPE TouchedEntry
#define SH_KEY_TYPE JobstateTouched *
#define SH_KEY touched
#define SH_HASH_KEY(tb, key) ((key)->hash)
#define SH_EQUAL(tb, a, b) same_parent(a, b)
#define SH_SCOPE static inline
#define SH_DEFINE
#define SH_DECLARE
#define SH_USE_NONDEFAULT_ALLOCATOR
#include "lib/simplehash.h"
#include "growhash.h"
JOBSTATE_GROWHASH(touchedhash)

/* The transaction's, in a context that is emptied rather than made anew */
static MemoryContext context = NULL;
static touchedhash_hash *touched = NULL;
static JobstateTouched *last = NULL;	/* the next row is often of the same parent */
static List *whole = NIL;		/* tables of which every row is touched */

/* What was taken out of these within a savepoint, and whether it is to come back */
static List *taken_rows = NIL;	/* of JobstateTouched */
static List *taken_whole = NIL;
static bool rolled_back = false;

static JobstateTouched *
make_touched(JobstateTouched *probe)
{
	MemoryContext before = MemoryContextSwitchTo(context);
	JobstateTouched *made = palloc(sizeof(JobstateTouched));
	bool		found;

	*made = *probe;
	jobstate_key_copy(made->parent->row_key, &made->key);
	touchedhash_insert(touched, made, &found);
	MemoryContextSwitchTo(before);
	return made;
}

static void
touch(JobstateAttachment *parent, JobstateKeyValues *key, bool is_new)
{
	/* cppcheck-suppress uninitvar; a key has a column */
	JobstateTouched probe = {parent, 0, *key, false};

	if (last == NULL || !same_parent(last, &probe))
	{
		TouchedEntry *entry;

		probe.hash = jobstate_key_hash(parent->row_key, key);
		if (touched == NULL)
			touched = touchedhash_create(context, 8, NULL);
		entry = touchedhash_lookup(touched, &probe);
		last = entry != NULL ? entry->touched : make_touched(&probe);
	}
	last->is_new |= is_new;
}

/* The derived table, if it is still watched and can be found by its key */
static JobstateAttachment *
derived_table(Oid relid)
{
	JobstateAttachment *parent = jobstate_attachment_if_any(relid);

	if (parent == NULL || parent->sources == NIL)
		return NULL;
	if (parent->row_key == NULL)
		jobstate_error_no_key(relid, false);
	return parent;
}

/* Reads a key of the parent's from a row; false where the row names none. */
static bool
read_key(JobstateAttachment *parent, AttrNumber *attno, TupleTableSlot *slot,
		 JobstateKeyValues *key)
{
	JobstateKeySpec *spec = parent->row_key;
	int			i;

	for (i = 0; i < spec->ncolumns; i++)
	{
		Oid			type;

		if (attno[i] == InvalidAttrNumber)
			jobstate_error_derive_key(parent->target);
		type = TupleDescAttr(slot->tts_tupleDescriptor, attno[i] - 1)->atttypid;
		if (type != spec->column[i].base_type && getBaseType(type) != spec->column[i].base_type)
			jobstate_error_derive_key(parent->target);
		key->value[i] = slot_getattr(slot, attno[i], &key->isnull[i]);
		if (key->isnull[i])
			return false;
	}
	return true;
}

static void
touch_parent(JobstateLink *link, TupleTableSlot *slot)
{
	JobstateAttachment *parent = derived_table(link->derivation->parent);
	JobstateKeyValues key;

	if (parent != NULL && read_key(parent, link->key, slot, &key))
		touch(parent, &key, false);
}

/* A row with a key that was not there before: there may be children already. */
static void
touch_itself(JobstateWatched *watched, TupleTableSlot *slot)
{
	JobstateAttachment *parent = derived_table(watched->attachment->target);
	JobstateKeyValues key;

	if (parent != NULL && read_key(parent, watched->row_attno, slot, &key))
		touch(parent, &key, true);
}

/* A row came or went.  A new one's own state may have to be derived, too. */
void
jobstate_touch_row(JobstateWatched *watched, TupleTableSlot *slot, bool is_new)
{
	ListCell   *cell;

	foreach(cell, watched->links)
		touch_parent(lfirst(cell), slot);
	if (is_new && watched->attachment->sources != NIL)
		touch_itself(watched, slot);
}

static bool
differs(TupleTableSlot *oldslot, TupleTableSlot *newslot, AttrNumber attno)
{
	Form_pg_attribute attr;
	Datum		old;
	Datum		new;
	bool		oldnull;
	bool		newnull;

	if (attno == InvalidAttrNumber)
		return false;
	attr = TupleDescAttr(newslot->tts_tupleDescriptor, attno - 1);
	old = slot_getattr(oldslot, attno, &oldnull);
	new = slot_getattr(newslot, attno, &newnull);
	if (oldnull || newnull)
		return oldnull != newnull;
	return !datum_image_eq(old, new, attr->attbyval, attr->attlen);
}

static bool
any_differs(TupleTableSlot *oldslot, TupleTableSlot *newslot, AttrNumber *attno, int n)
{
	int			i;

	for (i = 0; i < n; i++)
		if (differs(oldslot, newslot, attno[i]))
			return true;
	return false;
}

/* A row changed: parents are touched if anything did that they depend on. */
void
jobstate_touch_update(JobstateWatched *watched, TupleTableSlot *oldslot,
					  TupleTableSlot *newslot, bool state_changed)
{
	JobstateKeySpec *own = watched->attachment->row_key;
	ListCell   *cell;

	foreach(cell, watched->links)
	{
		JobstateLink *link = lfirst(cell);
		bool		moved = any_differs(oldslot, newslot, link->key,
										list_length(link->derivation->key));

		if (moved)
			touch_parent(link, oldslot);
		if (moved || state_changed ||
			differs(oldslot, newslot, link->error) ||
			differs(oldslot, newslot, link->variant) ||
			any_differs(oldslot, newslot, link->order, link->norder))
			touch_parent(link, newslot);
	}
	if (own != NULL &&
		any_differs(oldslot, newslot, watched->row_attno, own->ncolumns))
		touch_itself(watched, newslot);
}

/* Every row of a derived table is touched. */
void
jobstate_touch_all(Oid parent)
{
	MemoryContext before = MemoryContextSwitchTo(context);

	whole = list_append_unique_oid(whole, parent);
	MemoryContextSwitchTo(before);
}

/* Rows of a watched table came or went without passing its trigger. */
void
jobstate_touch_parents_of(Oid child)
{
	ListCell   *cell;

	foreach(cell, jobstate_derivations_of_child(child))
		jobstate_touch_all(((JobstateDerivation *) lfirst(cell))->parent);
}

bool
jobstate_touched_any(void)
{
	return whole != NIL || rolled_back ||
		(touched != NULL && touched->members > 0);
}

/* Touches each row that there is of a derived table, as if it were new. */
static void
touch_rows(JobstateAttachment *parent)
{
	JobstateKeySpec *spec = parent->row_key;
	JobstateRole role = jobstate_become(jobstate_owner_of(parent->target));
	StringInfoData sql;
	uint64		row;
	int			i;

	initStringInfo(&sql);
	for (i = 0; i < spec->ncolumns; i++)
		appendStringInfo(&sql, "%s %s", i > 0 ? "," : "SELECT",
						 quote_identifier(NameStr(spec->column[i].name)));
	appendStringInfo(&sql, " FROM %s", jobstate_table_rows(parent->target));
	jobstate_spi_connect();
	PushActiveSnapshot(GetLatestSnapshot());
	if (SPI_execute(sql.data, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read \"%s\"", sql.data);
	for (row = 0; row < SPI_processed; row++)
	{
		JobstateKeyValues key;

		for (i = 0; i < spec->ncolumns; i++)
			key.value[i] = jobstate_spi_value(row, i + 1, &key.isnull[i]);
		touch(parent, &key, true);
	}
	PopActiveSnapshot();
	jobstate_spi_finish();
	jobstate_return(role);
}

/* How many tables are derived one after the other from this one's states? */
static int
depth(Oid relid)
{
	JobstateAttachment *attachment = jobstate_attachment_if_any(relid);
	int			deepest = 0;
	ListCell   *cell;

	check_stack_depth();
	foreach(cell, attachment == NULL ? NIL : attachment->links)
		deepest = Max(deepest, 1 + depth(((JobstateDerivation *) lfirst(cell))->parent));
	return deepest;
}

typedef struct Deepest
{
	Oid			relid;			/* or InvalidOid, so far */
	int			depth;
} Deepest;

/* Of two that are equally deep the order is by OID, for everybody the same. */
static void
consider(Deepest *found, Oid relid)
{
	int			its_depth = depth(relid);

	if (!OidIsValid(found->relid) || its_depth > found->depth ||
		(its_depth == found->depth && relid < found->relid))
	{
		found->relid = relid;
		found->depth = its_depth;
	}
}

/* The touched table from which most others are derived */
static Oid
deepest_table(void)
{
	touchedhash_iterator it;
	TouchedEntry *entry;
	Deepest		found = {InvalidOid, 0};
	Oid			seen = InvalidOid;
	ListCell   *cell;

	foreach(cell, whole)
		consider(&found, lfirst_oid(cell));
	if (touched == NULL)
		return found.relid;
	touchedhash_start_iterate(touched, &it);
	while ((entry = touchedhash_iterate(touched, &it)) != NULL)
	{
		if (entry->touched->parent->target != seen)
			consider(&found, entry->touched->parent->target);
		seen = entry->touched->parent->target;
	}
	return found.relid;
}

/* In the order of the primary key, as its type's index has it */
static int
compare_touched(const void *a, const void *b)
{
	const JobstateTouched *x = a;
	const JobstateTouched *y = b;
	JobstateKeySpec *spec = x->parent->row_key;
	int			i;

	for (i = 0; i < spec->ncolumns; i++)
	{
		JobstateKeyColumn *column = &spec->column[i];
		TypeCacheEntry *type = lookup_type_cache(column->base_type,
												 TYPECACHE_CMP_PROC_FINFO);
		int			order = DatumGetInt32(FunctionCall2Coll(&type->cmp_proc_finfo,
															column->collation,
															x->key.value[i],
															y->key.value[i]));

		if (order != 0)
			return order;
	}
	return 0;
}

static bool
same_types(JobstateKeySpec *a, JobstateKeySpec *b)
{
	int			i;

	for (i = 0; i < a->ncolumns; i++)
		if (a->ncolumns != b->ncolumns ||
			a->column[i].base_type != b->column[i].base_type)
			return false;
	return true;
}

/*
 * Moves the rows of one table from the set to the array.  Returns false where
 * a key is of a type that the table's had earlier in this transaction.
 */
static bool
move_rows(Oid relid, JobstateAttachment *parent, JobstateTouched *taken, int *n)
{
	MemoryContext before = MemoryContextSwitchTo(context);
	bool		in_savepoint = GetCurrentTransactionNestLevel() > 1;
	bool		sound = true;
	touchedhash_iterator it;
	TouchedEntry *entry;

	last = NULL;
	touchedhash_start_iterate(touched, &it);
	while ((entry = touchedhash_iterate(touched, &it)) != NULL)
	{
		if (entry->touched->parent->target != relid)
			continue;
		if (parent != NULL && same_types(entry->touched->parent->row_key, parent->row_key))
		{
			taken[*n] = *entry->touched;
			taken[(*n)++].parent = parent;
		}
		else
			sound = false;
		if (in_savepoint)
			taken_rows = lappend(taken_rows, entry->touched);
		touchedhash_delete_item(touched, entry);
	}
	MemoryContextSwitchTo(before);
	return sound || parent == NULL;
}

/* The table as a whole is looked at, so it is one no longer to be looked at. */
static void
take_whole(Oid relid, JobstateAttachment *parent)
{
	MemoryContext before = MemoryContextSwitchTo(context);

	if (GetCurrentTransactionNestLevel() > 1)
		taken_whole = list_append_unique_oid(taken_whole, relid);
	MemoryContextSwitchTo(before);
	if (parent != NULL)
		touch_rows(parent);
	whole = list_delete_oid(whole, relid);
}

/* What a rolled back savepoint gives back is touched like anything else. */
static void
touch_returned(void)
{
	ListCell   *cell;

	foreach(cell, taken_whole)
		jobstate_touch_all(lfirst_oid(cell));
	foreach(cell, taken_rows)
	{
		JobstateTouched *row = lfirst(cell);

		touch(row->parent, &row->key, row->is_new);
	}
	taken_rows = NIL;
	taken_whole = NIL;
	rolled_back = false;
}

/*
 * Takes all rows of one table out of the set, in the order of their keys.  It
 * is a table that none of the others' states are derived from, so whatever
 * becomes of these rows is known when its own parents come up.
 *
 * The table is locked before anything is looked up, so that what is known of it
 * stays true until commit.
 */
JobstateTouched *
jobstate_touched_take(int *n)
{
	Oid			relid;
	JobstateAttachment *parent;
	JobstateTouched *taken;

	*n = 0;
	if (rolled_back)
		touch_returned();
	relid = deepest_table();
	LockRelationOid(relid, RowExclusiveLock);
	parent = derived_table(relid);
	if (list_member_oid(whole, relid))
		take_whole(relid, parent);
	if (touched == NULL)
		return NULL;
	taken = palloc_extended(sizeof(JobstateTouched) * (touched->members + 1),
							MCXT_ALLOC_HUGE);
	if (!move_rows(relid, parent, taken, n))
		jobstate_touch_all(relid);
	if (*n > 1)
		qsort(taken, *n, sizeof(JobstateTouched), compare_touched);
	return taken;
}

static void
AtEnd_touched(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			if (touched != NULL || whole != NIL || taken_whole != NIL)
				MemoryContextReset(context);
			touched = NULL;
			last = NULL;
			whole = NIL;
			taken_rows = NIL;
			taken_whole = NIL;
			rolled_back = false;
			break;
		default:
			break;
	}
}

/*
 * What was looked at since the savepoint may be wrong again.  That is only
 * noted here: an abort must not need memory.
 */
static void
AtAbortSub_touched(SubXactEvent event, SubTransactionId mySubid,
				   SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && (taken_rows != NIL || taken_whole != NIL))
		rolled_back = true;
}

void
jobstate_touched_init(void)
{
	context = AllocSetContextCreate(TopMemoryContext, "jobstate touched parents",
									ALLOCSET_DEFAULT_SIZES);
	RegisterXactCallback(AtEnd_touched, NULL);
	RegisterSubXactCallback(AtAbortSub_touched, NULL);
}
