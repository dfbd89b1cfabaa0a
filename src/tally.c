/*
 * src/tally.c
 *
 * What this transaction has changed, per group and state.
 *
 * Invariants:
 * - Nothing here is shared or durable.  The flush writes it before commit; an
 *   abort forgets it.
 * - After a savepoint is rolled back every delta is what it was before.  The
 *   first change of a delta in a subtransaction saves the old value; so the
 *   journal grows with the keys touched, never with the rows.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "flush.h"
#include "tally.h"

typedef struct TallyEntry
{
	JobstateTally *tally;
	char		status;
} TallyEntry;

static bool
same_key(JobstateTally *a, JobstateTally *b)
{
	return a->hash == b->hash && a->attachment == b->attachment &&
		jobstate_key_equal(&a->attachment->key, &a->key, &b->key);
}

#define SH_PREFIX tallyhash
#define SH_ELEMENT_TYPE TallyEntry
#define SH_KEY_TYPE JobstateTally *
#define SH_KEY tally
#define SH_HASH_KEY(tb, key) \
	((key)->hash ^ (key)->attachment->target)
#define SH_EQUAL(tb, a, b) same_key(a, b)
#define SH_SCOPE static inline
#define SH_DEFINE
#define SH_DECLARE
#define SH_USE_NONDEFAULT_ALLOCATOR
#include "lib/simplehash.h"
#include "growhash.h"
JOBSTATE_GROWHASH(tallyhash)

struct JobstateTallySet
{
	MemoryContext context;
	tallyhash_hash *hash;
	JobstateTally *last;		/* touched last: the next row is often alike */
};

/* So many keys are worth a look whether they can go before the transaction ends */
#define MANY_KEYS	1000

/* How to take one delta back */
typedef struct Undo
{
	JobstateTally *tally;
	int			delta;			/* index in it */
	int64		n;				/* its value before */
	SubTransactionId saved_in;	/* its mark before */
	SubTransactionId subid;		/* whose abort takes it back */
} Undo;

/* The transaction's own, in a context that is emptied rather than made anew */
static MemoryContext pending_context = NULL;
static JobstateTallySet *pending = NULL;
static Undo *journal = NULL;
static int	njournal = 0;
static int	maxjournal = 0;
static List *truncated = NIL;	/* attachments of truncated partitions */

JobstateTallySet *
jobstate_tally_set_create(MemoryContext context)
{
	JobstateTallySet *set = MemoryContextAllocZero(context, sizeof(JobstateTallySet));

	set->context = context;
	set->hash = tallyhash_create(context, 8, NULL);
	return set;
}

/* A new entry with its own copy of the key. */
static JobstateTally *
make_tally(JobstateTallySet *set, JobstateTally *probe)
{
	text	   *stored = jobstate_key_to_text(&probe->attachment->key, &probe->key);
	Size		size = VARSIZE_ANY(stored);
	MemoryContext before = MemoryContextSwitchTo(set->context);
	JobstateTally *tally = palloc(sizeof(JobstateTally) + size);

	*tally = *probe;
	jobstate_key_copy(&tally->attachment->key, &tally->key);
	tally->text = (text *) (tally + 1);
	memcpy(tally->text, stored, size);
	tally->prefix = jobstate_key_prefix(stored);
	jobstate_deltas_init(&tally->deltas, set->context);
	MemoryContextSwitchTo(before);
	return tally;
}

/* The entry of this key, made where there is none. */
JobstateTally *
jobstate_tally_set_find(JobstateTallySet *set, JobstateAttachment *attachment,
						JobstateKeyValues *key)
{
	JobstateTally probe;
	TallyEntry *entry;
	bool		found;

	/* to compare is cheaper than to hash */
	if (set->last != NULL && set->last->attachment == attachment &&
		jobstate_key_equal(&attachment->key, &set->last->key, key))
		return set->last;
	probe.attachment = attachment;
	probe.hash = jobstate_key_hash(&attachment->key, key);
	probe.key = *key;

	entry = tallyhash_lookup(set->hash, &probe);
	if (entry == NULL)
	{
		/* made first: an error in it must not leave a broken entry behind */
		JobstateTally *tally = make_tally(set, &probe);

		entry = tallyhash_insert(set->hash, tally, &found);
		entry->tally = tally;
	}
	set->last = entry->tally;
	return entry->tally;
}

/* How many entries change something? */
static int
count_changed(JobstateTallySet *set)
{
	tallyhash_iterator it;
	TallyEntry *entry;
	int			n = 0;

	tallyhash_start_iterate(set->hash, &it);
	while ((entry = tallyhash_iterate(set->hash, &it)) != NULL)
		n += jobstate_deltas_any(&entry->tally->deltas);
	return n;
}

/*
 * The entries that change something, in an array.  A savepoint that is rolled
 * back leaves the others behind, which may be most.
 */
int
jobstate_tally_set_list(JobstateTallySet *set, JobstateTally ***list)
{
	tallyhash_iterator it;
	TallyEntry *entry;
	int			n = 0;

	*list = MemoryContextAllocHuge(CurrentMemoryContext,
								   sizeof(JobstateTally *) * (count_changed(set) + 1));
	tallyhash_start_iterate(set->hash, &it);
	while ((entry = tallyhash_iterate(set->hash, &it)) != NULL)
		if (jobstate_deltas_any(&entry->tally->deltas))
			(*list)[n++] = entry->tally;
	return n;
}

/* Its size is what it was until there is more: an error leaves both as they are. */
static void
enlarge_journal(void)
{
	int			wanted = Max(64, maxjournal * 2);

	if (journal == NULL)
		journal = MemoryContextAlloc(pending->context, sizeof(Undo) * wanted);
	else
		journal = repalloc_huge(journal, sizeof(Undo) * wanted);
	maxjournal = wanted;
}

/* Remembers a delta's value for the abort of this subtransaction. */
static void
save(JobstateTally *tally, JobstateDelta *delta, SubTransactionId subid)
{
	Undo	   *undo;

	if (njournal == maxjournal)
		enlarge_journal();
	undo = &journal[njournal++];
	undo->tally = tally;
	undo->delta = delta - tally->deltas.delta;
	undo->n = delta->n;
	undo->saved_in = delta->saved_in;
	undo->subid = subid;
	delta->saved_in = subid;
}

static void
change(JobstateTally *tally, int16 state_id, int64 n)
{
	JobstateDelta *delta = jobstate_deltas_find(&tally->deltas, state_id);

	if (GetCurrentTransactionNestLevel() > 1 &&
		delta->saved_in != GetCurrentSubTransactionId())
		save(tally, delta, GetCurrentSubTransactionId());
	delta->n += n;
}

static JobstateTally *
pending_tally(JobstateAttachment *attachment, JobstateKeyValues *key)
{
	if (pending == NULL)
		pending = jobstate_tally_set_create(pending_context);
	else if (pending->hash->members >= JOBSTATE_SPILL_KEYS &&
			 GetCurrentTransactionNestLevel() == 1)
	{
		/* no savepoint can want these back: they may go to the log early */
		jobstate_flush_early();
		return pending_tally(attachment, key);
	}
	return jobstate_tally_set_find(pending, attachment, key);
}

static int16
state_id(JobstateAttachment *attachment, JobstateFact *fact)
{
	return attachment->machine->state[fact->state].id;
}

/* Books n rows like this one. */
void
jobstate_tally_add(JobstateAttachment *attachment, JobstateFact *fact, int64 n)
{
	JobstateTally *tally = pending_tally(attachment, &fact->key);

	change(tally, state_id(attachment, fact), n);
}

/* Books one row's way from here to there; nothing where nothing differs. */
void
jobstate_tally_move(JobstateAttachment *attachment, JobstateFact *from,
					JobstateFact *to)
{
	if (!jobstate_key_equal(&attachment->key, &from->key, &to->key))
	{
		jobstate_tally_add(attachment, from, -1);
		jobstate_tally_add(attachment, to, 1);
	}
	else if (from->state != to->state)
	{
		JobstateTally *tally = pending_tally(attachment, &from->key);

		change(tally, state_id(attachment, from), -1);
		change(tally, state_id(attachment, to), 1);
	}
}

/* This transaction's changes that are not yet in the log, or NULL. */
JobstateTallySet *
jobstate_tally_pending(void)
{
	return pending;
}

/* They are in the log, or undone: start afresh. */
void
jobstate_tally_forget(void)
{
	if (pending != NULL)
		MemoryContextReset(pending_context);
	pending = NULL;
	journal = NULL;
	njournal = maxjournal = 0;
}

/*
 * A partition was truncated: what was booked for it includes rows that an old
 * snapshot of this transaction does not see.
 */
void
jobstate_tally_truncated(JobstateAttachment *attachment)
{
	MemoryContext before = MemoryContextSwitchTo(TopTransactionContext);

	truncated = list_append_unique_oid(truncated, attachment->target);
	MemoryContextSwitchTo(before);
}

bool
jobstate_tally_was_truncated(JobstateAttachment *attachment)
{
	return list_member_oid(truncated, attachment->target);
}

/*
 * Takes back what this subtransaction changed.  Where that is all, and much, it
 * gives the memory back: it may be what was wanting.
 */
static void
AtSubAbort_tally(SubTransactionId subid)
{
	while (njournal > 0 && journal[njournal - 1].subid == subid)
	{
		Undo	   *undo = &journal[--njournal];
		JobstateDelta *delta = &undo->tally->deltas.delta[undo->delta];

		delta->n = undo->n;
		delta->saved_in = undo->saved_in;
	}
	if (njournal == 0 && pending->hash->members > MANY_KEYS && count_changed(pending) == 0)
		jobstate_tally_forget();
}

/*
 * The parent takes over.  A delta that the parent saved itself keeps that older
 * value; where nothing can be rolled back any more, nothing is kept.
 */
static void
AtSubCommit_tally(SubTransactionId subid, SubTransactionId parent)
{
	int			first = njournal;
	int			keep;
	int			i;

	while (first > 0 && journal[first - 1].subid == subid)
		first--;
	keep = first;
	for (i = first; i < njournal; i++)
	{
		Undo	   *undo = &journal[i];
		JobstateDelta *delta = &undo->tally->deltas.delta[undo->delta];

		if (GetCurrentTransactionNestLevel() <= 2)
			delta->saved_in = InvalidSubTransactionId;
		else
		{
			delta->saved_in = parent;
			if (undo->saved_in != parent)
			{
				undo->subid = parent;
				journal[keep++] = *undo;
			}
		}
	}
	njournal = keep;
}

static void
AtSubXact_tally(SubXactEvent event, SubTransactionId subid,
				SubTransactionId parent, void *arg)
{
	if (njournal == 0)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		AtSubAbort_tally(subid);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		AtSubCommit_tally(subid, parent);
}

static void
AtEnd_tally(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			jobstate_tally_forget();
			truncated = NIL;	/* went with TopTransactionContext */
			jobstate_attachment_at_end();
			break;
		default:
			break;
	}
}

void
jobstate_tally_init(void)
{
	pending_context = GenerationContextCreate(TopMemoryContext, "jobstate tally",
											 ALLOCSET_DEFAULT_SIZES);
	RegisterXactCallback(AtEnd_tally, NULL);
	RegisterSubXactCallback(AtSubXact_tally, NULL);
}
