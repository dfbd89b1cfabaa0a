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
	return a->hash == b->hash && a->epoch == b->epoch &&
		VARSIZE(a->key) == VARSIZE(b->key) &&
		memcmp(a->key, b->key, VARSIZE(a->key)) == 0;
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
	JobstateSum *sum = MemoryContextAlloc(sums->context, sizeof(JobstateSum));

	*sum = *probe;
	sum->key = MemoryContextAlloc(sums->context, VARSIZE(probe->key));
	memcpy(sum->key, probe->key, VARSIZE(probe->key));
	sum->counted = false;
	sum->asked = false;
	sum->nstates = 0;
	sum->maxstates = 4;
	sum->state = MemoryContextAlloc(sums->context,
									sizeof(int64) * 2 * sum->maxstates);
	return sum;
}

/* The sum of this key, made where there is none. */
JobstateSum *
jobstate_sums_find(JobstateSums *sums, int64 epoch, uint32 hash, ArrayType *key)
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

void
jobstate_sums_add(JobstateSum *sum, int16 state_id, int64 n)
{
	int			i;

	for (i = 0; i < sum->nstates; i++)
		if (sum->state[2 * i] == state_id)
		{
			sum->state[2 * i + 1] += n;
			return;
		}
	if (sum->nstates == sum->maxstates)
	{
		sum->maxstates *= 2;
		sum->state = repalloc(sum->state, sizeof(int64) * 2 * sum->maxstates);
	}
	sum->state[2 * sum->nstates] = state_id;
	sum->state[2 * sum->nstates + 1] = n;
	sum->nstates++;
}

void
jobstate_sums_add_row(JobstateSums *sums, JobstateLogRow *row)
{
	JobstateSum *sum = jobstate_sums_find(sums, row->epoch, row->hash, row->key);
	int64	   *elements;
	int			n = jobstate_log_ndeltas(row, &elements);
	int			i;

	if (n == 0)
		sum->counted = true;
	for (i = 0; i < n; i += 2)
		jobstate_sums_add(sum, (int16) elements[i], elements[i + 1]);
}

void
jobstate_sums_add_tally(JobstateSums *sums, JobstateTally *tally)
{
	JobstateSum *sum = jobstate_sums_find(sums, tally->attachment->epoch,
										  tally->hash, tally->text);
	int			i;

	for (i = 0; i < tally->ndeltas; i++)
		jobstate_sums_add(sum, tally->delta[i].state_id, tally->delta[i].n);
}

int64
jobstate_sums_get(JobstateSum *sum, int16 state_id)
{
	int			i;

	for (i = 0; i < sum->nstates; i++)
		if (sum->state[2 * i] == state_id)
			return sum->state[2 * i + 1];
	return 0;
}

bool
jobstate_sums_is_zero(JobstateSum *sum)
{
	int			i;

	for (i = 0; i < sum->nstates; i++)
		if (sum->state[2 * i + 1] != 0)
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
	int64	   *elements = palloc(sizeof(int64) * (2 * sum->nstates + 1));
	int			nelements = 0;
	int			n = 0;
	int			i;

	for (i = 0; i < sum->nstates; i++)
	{
		if (sum->state[2 * i + 1] == 0)
			continue;
		elements[nelements++] = sum->state[2 * i];
		elements[nelements++] = sum->state[2 * i + 1];
	}
	if (sum->counted)
		row[n++].deltas = jobstate_log_deltas(NULL, 0);
	if (nelements > 0)
		row[n++].deltas = jobstate_log_deltas(elements, nelements);
	for (i = 0; i < n; i++)
	{
		row[i].epoch = sum->epoch;
		row[i].hash = sum->hash;
		row[i].key = sum->key;
	}
	pfree(elements);
	return n;
}
