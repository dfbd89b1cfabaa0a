/*
 * src/attachment.c
 *
 * From a relation to what is known of it as a watched table, cached.
 *
 * This is the one resolver: whoever meets a relation (the trigger, counts, a
 * verb) asks here.  Callbacks only tag what they are told about; a tagged
 * entry is made anew at its next use.  The old one stays until the transaction
 * ends, because the tally may point to it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "attachment.h"
#include "attachmentrow.h"
#include "catalog.h"
#include "compat.h"
#include "error.h"

static uint64 invalidations = 0;	/* so far, of anything */
static HTAB *watched_tables = NULL;
static JobstateWatched *last_watched = NULL;
static List *attachments = NIL; /* those in use */
static List *retired = NIL;		/* those to free when the transaction ends */

/* What it knows of keys lies in the attachment's memory, so that goes with it. */
static void
outdate(JobstateWatched *watched)
{
	if (!watched->outdated && watched->links != NIL)
		watched->attachment->outdated = true;
	watched->outdated = true;
}

static void
AtRelcacheInval_attachment(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	JobstateWatched *watched;
	ListCell   *cell;

	invalidations++;
	foreach(cell, attachments)
	{
		JobstateAttachment *attachment = lfirst(cell);

		if (!OidIsValid(relid) || attachment->target == relid)
			attachment->outdated = true;
	}
	if (OidIsValid(relid))
	{
		watched = hash_search(watched_tables, &relid, HASH_FIND, NULL);
		if (watched != NULL)
			outdate(watched);
		return;
	}
	hash_seq_init(&seq, watched_tables);
	while ((watched = hash_seq_search(&seq)) != NULL)
		outdate(watched);
}

static void
AtEnumInval_attachment(Datum arg, int cacheid, uint32 hashvalue)
{
	ListCell   *cell;

	invalidations++;
	foreach(cell, attachments)
		((JobstateAttachment *) lfirst(cell))->outdated = true;
}

void
jobstate_attachment_init(void)
{
	HASHCTL		ctl;

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(JobstateWatched);
	watched_tables = hash_create("jobstate watched tables", 64, &ctl,
								 HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(AtRelcacheInval_attachment, (Datum) 0);
	CacheRegisterSyscacheCallback(ENUMOID, AtEnumInval_attachment, (Datum) 0);
}

/* The transaction is over and its tally gone: nobody points here any more. */
void
jobstate_attachment_at_end(void)
{
	HASH_SEQ_STATUS seq;
	JobstateWatched *watched;
	ListCell   *cell;

	if (retired == NIL)
		return;
	hash_seq_init(&seq, watched_tables);
	while ((watched = hash_seq_search(&seq)) != NULL)
		if (watched->outdated || watched->attachment->outdated)
			(void) hash_search(watched_tables, &watched->relid, HASH_REMOVE, NULL);
	last_watched = NULL;
	foreach(cell, retired)
		MemoryContextDelete(((JobstateAttachment *) lfirst(cell))->context);
	list_free(retired);
	retired = NIL;
}

/* Which kind of state column is this? */
static JobstateStateKind
state_kind(Relation rel, const char *column, Oid type)
{
	Oid			base = getBaseType(type);

	switch (base)
	{
		case INT2OID:
			return JOBSTATE_STATE_INT2;
		case INT4OID:
			return JOBSTATE_STATE_INT4;
		case TEXTOID:
		case VARCHAROID:
			return JOBSTATE_STATE_TEXT;
		default:
			if (type_is_enum(base))
				return JOBSTATE_STATE_ENUM;
			jobstate_error_state_type(rel, column, type);
	}
	return JOBSTATE_STATE_INT2; /* not reached */
}

/* The OIDs of those labels that are names of states. */
static Oid *
enum_labels(JobstateMachine *machine, Oid type)
{
	Oid		   *label = palloc0(sizeof(Oid) * machine->nstates);
	int			i;

	for (i = 0; i < machine->nstates; i++)
	{
		HeapTuple	tuple = SearchSysCache2(ENUMTYPOIDNAME,
											ObjectIdGetDatum(getBaseType(type)),
											CStringGetDatum(machine->state[i].name));

		if (!HeapTupleIsValid(tuple))
			continue;
		label[i] = ((Form_pg_enum) GETSTRUCT(tuple))->oid;
		ReleaseSysCache(tuple);
	}
	return label;
}

static void
compile(JobstateAttachment *attachment, Relation rel, const char *machine,
		const char *state_column, ArrayType *group_by)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(rel), state_column);
	Datum	   *names;
	int			i;

	if (attno <= 0)
		jobstate_error_no_column(rel, state_column);
	jobstate_require_stored(rel, attno);
	attachment->machine = jobstate_machine_load(machine);
	namestrcpy(&attachment->state_column, state_column);
	attachment->state_type = TupleDescAttr(RelationGetDescr(rel), attno - 1)->atttypid;
	attachment->state_kind = state_kind(rel, state_column, attachment->state_type);
	if (attachment->state_kind == JOBSTATE_STATE_ENUM)
		attachment->state_enum = enum_labels(attachment->machine,
											 attachment->state_type);

	deconstruct_array(group_by, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR,
					  &names, NULL, &attachment->key.ncolumns);
	if (attachment->key.ncolumns > JOBSTATE_MAX_GROUP)
		jobstate_error_too_many_groups(attachment->key.ncolumns, JOBSTATE_MAX_GROUP);
	for (i = 0; i < attachment->key.ncolumns; i++)
		jobstate_key_column_init(&attachment->key.column[i], rel,
								 NameStr(*DatumGetName(names[i])));
	jobstate_key_spec_finish(&attachment->key);
}

/*
 * Compiles what an attachment of this shape would be.  Its context belongs to
 * the current one until somebody moves it, so that an error leaves nothing.
 */
JobstateAttachment *
jobstate_attachment_build(Oid target, const char *machine,
						  const char *state_column, ArrayType *group_by,
						  int64 epoch)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "jobstate attachment",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);
	JobstateAttachment *attachment = palloc0(sizeof(JobstateAttachment));
	Relation	rel = table_open(target, AccessShareLock);

	attachment->target = target;
	attachment->epoch = epoch;
	attachment->context = context;
	compile(attachment, rel, machine, state_column, group_by);
	table_close(rel, AccessShareLock);
	MemoryContextSwitchTo(before);
	return attachment;
}

/* The primary key of a table, or NULL */
static JobstateKeySpec *
primary_key(Oid target)
{
	Relation	rel = table_open(target, AccessShareLock);
	Oid			index = jobstate_primary_key(rel);
	JobstateKeySpec *spec = NULL;
	int			i;

	if (OidIsValid(index))
	{
		Relation	pkey = index_open(index, AccessShareLock);

		spec = palloc0(sizeof(JobstateKeySpec));
		spec->ncolumns = Min(pkey->rd_index->indnkeyatts, JOBSTATE_MAX_GROUP);
		for (i = 0; i < spec->ncolumns; i++)
			jobstate_key_column_init(&spec->column[i], rel,
									 get_attname(target, pkey->rd_index->indkey.values[i], false));
		jobstate_key_spec_finish(spec);
		index_close(pkey, NoLock);
	}
	table_close(rel, NoLock);
	return spec;
}

/* Compiles the attachment of exactly this table; NULL where there is none. */
static JobstateAttachment *
load(Oid target)
{
	JobstateAttachmentRow row;
	JobstateAttachment *attachment;
	MemoryContext before;

	if (!jobstate_attachment_row(target, &row))
		return NULL;
	attachment = jobstate_attachment_build(target, row.machine,
										   NameStr(row.state_column), row.group_by,
										   row.epoch);
	before = MemoryContextSwitchTo(attachment->context);
	attachment->sources = jobstate_derivations_of_parent(target);
	attachment->links = jobstate_derivations_of_child(target);
	if (attachment->sources != NIL)
		attachment->row_key = primary_key(target);
	MemoryContextSwitchTo(before);
	return attachment;
}

/* The attachment of exactly this table, or NULL. */
JobstateAttachment *
jobstate_attachment_if_any(Oid target)
{
	static uint64 seen = 0;
	uint64		before_load;
	JobstateAttachment *attachment;
	MemoryContext before;
	ListCell   *cell;

	if (seen != jobstate_catalog_generation())
	{
		seen = jobstate_catalog_generation();
		foreach(cell, attachments)
			((JobstateAttachment *) lfirst(cell))->outdated = true;
	}
	before = MemoryContextSwitchTo(TopMemoryContext);
	foreach(cell, attachments)
	{
		attachment = lfirst(cell);
		if (!attachment->outdated && attachment->target == target)
		{
			MemoryContextSwitchTo(before);
			return attachment;
		}
		if (attachment->outdated)
		{
			retired = lappend(retired, attachment);
			attachments = foreach_delete_current(attachments, cell);
		}
	}
	MemoryContextSwitchTo(before);

	before_load = invalidations;
	attachment = load(target);
	if (attachment == NULL)
		return NULL;
	/* what was told meanwhile may be about this one: use it once only */
	attachment->outdated = before_load != invalidations;
	before = MemoryContextSwitchTo(TopMemoryContext);
	attachments = lappend(attachments, attachment);
	MemoryContextSwitchTo(before);
	MemoryContextSetParent(attachment->context, CacheMemoryContext);
	return attachment;
}

/* The attachment of this table, which must have one. */
JobstateAttachment *
jobstate_attachment(Oid target)
{
	JobstateAttachment *attachment = jobstate_attachment_if_any(target);

	if (attachment == NULL)
		jobstate_error_not_attached(target);
	return attachment;
}

/*
 * The watched table that this relation is, or is a partition of; or 0.  A
 * partition whose concurrent detach is under way still is one: old snapshots
 * write to it as such.  Nothing is compiled: in the middle of a restore the
 * machine may not be there yet.
 */
Oid
jobstate_attached_root(Oid relid)
{
	JobstateAttachmentRow row;

	while (!jobstate_attachment_row(relid, &row))
	{
		if (!get_rel_relispartition(relid))
			return InvalidOid;
		relid = get_partition_parent(relid, true);
	}
	return relid;
}

static AttrNumber
attno(Oid relid, const NameData *name)
{
	AttrNumber	found = get_attnum(relid, NameStr(*name));

	if (found == InvalidAttrNumber)
		elog(ERROR, "relation %u has no column \"%s\"", relid, NameStr(*name));
	return found;
}

/* Fills in what derive wants to know of the relation. */
static void
find_links(JobstateWatched *made)
{
	JobstateAttachment *attachment = made->attachment;
	MemoryContext before = MemoryContextSwitchTo(attachment->context);
	ListCell   *cell;
	int			i;

	made->links = NIL;
	foreach(cell, attachment->links)
		made->links = lappend(made->links, jobstate_link(made->relid, lfirst(cell)));
	for (i = 0; attachment->row_key != NULL && i < attachment->row_key->ncolumns; i++)
		made->row_attno[i] = attno(made->relid, &attachment->row_key->column[i].name);
	MemoryContextSwitchTo(before);
}

/* What the trigger needs to know of a relation; NULL where it isn't watched. */
JobstateWatched *
jobstate_watched(Oid relid)
{
	JobstateWatched *watched = last_watched;
	JobstateWatched made;
	JobstateAttachment *attachment;
	uint64		before;
	Oid			root;
	int			i;

	/* rows come one after the other from one table; entries stay until the transaction ends */
	if (watched == NULL || watched->relid != relid)
		watched = hash_search(watched_tables, &relid, HASH_FIND, NULL);
	last_watched = watched;
	if (watched != NULL && !watched->outdated &&
		!watched->attachment->outdated &&
		watched->generation == jobstate_catalog_generation())
		return watched;

	made.generation = jobstate_catalog_generation();
	before = invalidations;
	root = jobstate_attached_root(relid);
	if (!OidIsValid(root))
		return NULL;
	attachment = jobstate_attachment(root);

	made.relid = relid;
	made.attachment = attachment;
	made.state_attno = attno(relid, &attachment->state_column);
	for (i = 0; i < attachment->key.ncolumns; i++)
		made.group_attno[i] = attno(relid, &attachment->key.column[i].name);
	find_links(&made);

	made.outdated = before != invalidations;
	watched = hash_search(watched_tables, &relid, HASH_ENTER, NULL);
	*watched = made;
	return watched;
}

static int
enum_index(JobstateAttachment *attachment, Oid label)
{
	int			i;

	for (i = 0; i < attachment->machine->nstates; i++)
		if (attachment->state_enum[i] == label)
			return i;
	return -1;
}

/* The index of a state column's value, -1 for what is no state. */
int
jobstate_state_index(JobstateAttachment *attachment, Datum value, bool isnull)
{
	int			index = -1;

	if (isnull)
		return -1;
	switch (attachment->state_kind)
	{
		case JOBSTATE_STATE_INT2:
			return jobstate_machine_by_id(attachment->machine, DatumGetInt16(value));
		case JOBSTATE_STATE_INT4:
			return jobstate_machine_by_id(attachment->machine, DatumGetInt32(value));
		case JOBSTATE_STATE_ENUM:
			return enum_index(attachment, DatumGetObjectId(value));
		case JOBSTATE_STATE_TEXT:
			{
				text	   *name = DatumGetTextPP(value);

				index = jobstate_machine_by_name(attachment->machine,
												 VARDATA_ANY(name),
												 VARSIZE_ANY_EXHDR(name));
				if ((Pointer) name != DatumGetPointer(value))
					pfree(name);
			}
	}
	return index;
}

/* The stored tuple in a slot, if none of its columns is null. */
static HeapTupleHeader
plain_tuple(TupleTableSlot *slot)
{
	HeapTuple	tuple;

	if (!TTS_IS_BUFFERTUPLE(slot) && !TTS_IS_HEAPTUPLE(slot))
		return NULL;
	/* the one kind begins with the other */
	tuple = ((HeapTupleTableSlot *) slot)->tuple;
	return tuple == NULL || HeapTupleHasNulls(tuple) ? NULL : tuple->t_data;
}

/*
 * A column of a row.  Where its place is the same in every row, nothing before
 * it needs to be taken apart.
 */
static inline Datum
read_column(TupleTableSlot *slot, HeapTupleHeader tuple, AttrNumber attno,
			bool *isnull)
{
	JobstateAttribute *attribute = jobstate_attribute(slot->tts_tupleDescriptor,
													  attno);

	if (tuple != NULL && attno <= HeapTupleHeaderGetNatts(tuple) &&
		attribute->attcacheoff >= 0)
	{
		*isnull = false;
		return fetchatt(attribute, (char *) tuple + tuple->t_hoff + attribute->attcacheoff);
	}
	return slot_getattr(slot, attno, isnull);
}

/* Reads state and group from a row; the datums point into the slot. */
void
jobstate_fact_read(JobstateWatched *watched, TupleTableSlot *slot,
				   JobstateFact *fact)
{
	JobstateAttachment *attachment = watched->attachment;
	HeapTupleHeader tuple = plain_tuple(slot);
	bool		isnull;
	Datum		value = read_column(slot, tuple, watched->state_attno, &isnull);
	int			i;

	fact->state = jobstate_state_index(attachment, value, isnull);
	for (i = 0; i < attachment->key.ncolumns; i++)
		fact->key.value[i] = read_column(slot, tuple, watched->group_attno[i],
										 &fact->key.isnull[i]);
}
