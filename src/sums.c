/*
 * src/sums.c
 *
 * Rows of the log, added up by key as it is stored.
 *
 * Two spellings of one value stay two sums here; who knows the types brings
 * them together (counts.c).  The fold knows none and needs none.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "sums.h"

typedef struct SumsEntry
{
	JobstateSum *sum;
	char		status;
} SumsEntry;

static inline bool
same_key(JobstateSum *a, JobstateSum *b)
{
	/* cppcheck-suppress ctuuninitvar; what is compared is set */
	return a->hash == b->hash && a->epoch == b->epoch &&
		jobstate_key_same(a->key, b->key);
}

#define SH_PREFIX sumshash
#define SH_ELEMENT_TYPE SumsEntry
#define SH_KEY_TYPE JobstateSum *
#define SH_KEY sum
#define SH_HASH_KEY(tb, key) \
	hash_combine(murmurhash32((key)->hash), murmurhash32((uint32) (key)->epoch))
#define SH_EQUAL(tb, a, b) same_key(a, b)
#define SH_SCOPE static inline
#define SH_DEFINE
#define SH_DECLARE
#include "lib/simplehash.h"

struct JobstateSums
{
	MemoryContext context;
	sumshash_hash *hash;
	JobstateSum *last;
};

JobstateSums *
jobstate_sums_create(MemoryContext context)
{
	JobstateSums *sums = MemoryContextAllocZero(context, sizeof(JobstateSums));

	sums->context = AllocSetContextCreate(context, "jobstate sums",
										  ALLOCSET_DEFAULT_SIZES);
	sums->hash = sumshash_create(sums->context, 64, NULL);
	return sums;
}

void
jobstate_sums_reset(JobstateSums *sums)
{
	MemoryContextReset(sums->context);
	sums->hash = sumshash_create(sums->context, 64, NULL);
	sums->last = NULL;
}

static JobstateSum *
make_sum(JobstateSums *sums, JobstateSum *probe)
{
	Size		size = VARSIZE_ANY(probe->key);
	JobstateSum *sum = MemoryContextAlloc(sums->context, sizeof(JobstateSum) + size);

	*sum = *probe;
	sum->key = (text *) (sum + 1);
	memcpy(sum->key, probe->key, size);
	sum->counted = false;
	sum->asked = false;
	jobstate_deltas_init(&sum->deltas, sums->context);
	return sum;
}

/* The sum of this key, made where there is none. */
JobstateSum *
jobstate_sums_find(JobstateSums *sums, int64 epoch, uint32 hash, text *key)
{
	JobstateSum probe;
	SumsEntry  *entry;
	bool		found;

	probe.epoch = epoch;
	probe.hash = hash;
	probe.key = key;
	if (sums->last != NULL && same_key(sums->last, &probe))
		return sums->last;

	entry = sumshash_insert(sums->hash, &probe, &found);
	if (!found)
		entry->sum = make_sum(sums, &probe);
	sums->last = entry->sum;
	return entry->sum;
}

/* Adds to a sum, or subtracts where the sign is -1. */
void
jobstate_sums_add(JobstateSum *sum, JobstateDeltas *deltas, int sign)
{
	int			i;

	for (i = 0; i < deltas->n; i++)
		jobstate_deltas_add(&sum->deltas, deltas->delta[i].state_id,
							sign * deltas->delta[i].n);
}

void
jobstate_sums_add_row(JobstateSums *sums, JobstateLogRow *row)
{
	JobstateSum *sum = jobstate_sums_find(sums, row->epoch, row->hash, row->key);

	if (jobstate_log_is_marker(row))
		sum->counted = true;
	jobstate_deltas_add_text(&sum->deltas, row->deltas);
}

void
jobstate_sums_add_tally(JobstateSums *sums, JobstateTally *tally)
{
	jobstate_sums_add(jobstate_sums_find(sums, tally->attachment->epoch,
										 tally->hash, tally->text),
					  &tally->deltas, 1);
}

int64
jobstate_sums_get(JobstateSum *sum, int16 state_id)
{
	return jobstate_deltas_find(&sum->deltas, state_id)->n;
}

bool
jobstate_sums_is_zero(JobstateSum *sum)
{
	int			i;

	for (i = 0; i < sum->deltas.n; i++)
		if (sum->deltas.delta[i].n != 0)
			return false;
	return true;
}

uint32
jobstate_sums_count(JobstateSums *sums)
{
	return sums->hash->members;
}

/* All sums, in an array. */
int
jobstate_sums_list(JobstateSums *sums, JobstateSum ***list)
{
	sumshash_iterator it;
	SumsEntry  *entry;
	int			n = 0;

	*list = MemoryContextAllocHuge(CurrentMemoryContext,
								   sizeof(JobstateSum *) * (sums->hash->members + 1));
	sumshash_start_iterate(sums->hash, &it);
	while ((entry = sumshash_iterate(sums->hash, &it)) != NULL)
		(*list)[n++] = entry->sum;
	return n;
}

/*
 * A sum as rows of the log, two at most: the marker stays a row of its own.
 * What is zero again needs none.
 */
int
jobstate_sums_to_rows(JobstateSum *sum, JobstateLogRow *row)
{
	int			n = 0;
	text	   *deltas = jobstate_deltas_to_text(&sum->deltas);

	if (sum->counted)
		row[n++] = jobstate_log_marker(sum->epoch);
	if (deltas != NULL)
	{
		row[n].epoch = sum->epoch;
		row[n].hash = sum->hash;
		row[n].key = sum->key;
		row[n++].deltas = deltas;
	}
	return n;
}
