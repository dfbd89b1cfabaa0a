/*
 * src/delta.c
 *
 * By how much the counts of some states change.
 *
 * In memory this is a short array.  The log holds it as text, such as
 * 1:-1,2:1, which takes a third of what an array of numbers takes and can be
 * read by whoever looks there.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "delta.h"
#include "error.h"
#include "keytext.h"

/* The longest text of one delta: 16 and 64 bits in digits, signs, : and , */
#define DELTA_LENGTH	28

void
jobstate_deltas_init(JobstateDeltas *deltas, MemoryContext context)
{
	deltas->context = context;
	deltas->n = 0;
	deltas->max = JOBSTATE_FEW_DELTAS;
	deltas->delta = deltas->few;
}

static void
grow(JobstateDeltas *deltas)
{
	JobstateDelta *larger = MemoryContextAlloc(deltas->context,
											   sizeof(JobstateDelta) * 2 * deltas->max);

	memcpy(larger, deltas->delta, sizeof(JobstateDelta) * deltas->n);
	if (deltas->delta != deltas->few)
		pfree(deltas->delta);
	deltas->delta = larger;
	deltas->max *= 2;
}

/* The delta of this state, made where there is none.  Machines are small. */
JobstateDelta *
jobstate_deltas_find(JobstateDeltas *deltas, int16 state_id)
{
	JobstateDelta *delta;
	int			i;

	for (i = 0; i < deltas->n; i++)
		if (deltas->delta[i].state_id == state_id)
			return &deltas->delta[i];
	if (deltas->n == deltas->max)
		grow(deltas);
	delta = &deltas->delta[deltas->n++];
	delta->state_id = state_id;
	delta->saved_in = InvalidSubTransactionId;
	delta->n = 0;
	return delta;
}

void
jobstate_deltas_add(JobstateDeltas *deltas, int16 state_id, int64 n)
{
	jobstate_deltas_find(deltas, state_id)->n += n;
}

bool
jobstate_deltas_any(JobstateDeltas *deltas)
{
	int			i;

	for (i = 0; i < deltas->n; i++)
		if (deltas->delta[i].n != 0)
			return true;
	return false;
}

/* Most changes are by a few. */
static char *
write_number(char *at, int64 number)
{
	if (number < 0 && number > -10)
	{
		*at++ = '-';
		number = -number;
	}
	if (number >= 0 && number < 10)
	{
		*at++ = '0' + number;
		return at;
	}
	return at + pg_lltoa(number, at);
}

/* As the log holds them, or NULL where nothing changes after all. */
text *
jobstate_deltas_to_text(JobstateDeltas *deltas)
{
	char	   *stored = palloc(VARHDRSZ + DELTA_LENGTH * deltas->n);
	char	   *first = stored + VARHDRSZ;
	char	   *at = first;
	int			i;

	for (i = 0; i < deltas->n; i++)
	{
		if (deltas->delta[i].n == 0)
			continue;
		if (at > first)
			*at++ = ',';
		at = write_number(at, deltas->delta[i].state_id);
		*at++ = ':';
		at = write_number(at, deltas->delta[i].n);
	}
	return at == first ? NULL : jobstate_packed(stored, at - first);
}

/* Returns where the number ends, NULL where there is none. */
static const char *
read_number(const char *at, const char *end, int64 *number)
{
	bool		negative = at < end && *at == '-';
	const char *first = at + negative;
	uint64		n = 0;

	for (at = first; at < end && *at >= '0' && *at <= '9'; at++)
		n = n * 10 + (*at - '0');
	if (at == first || at - first > 19 || n > (uint64) PG_INT64_MAX)
		return NULL;
	*number = negative ? -(int64) n : (int64) n;
	return at;
}

/* Adds what stands in the log. */
void
jobstate_deltas_add_text(JobstateDeltas *deltas, text *stored)
{
	const char *at = VARDATA_ANY(stored);
	const char *end = at + VARSIZE_ANY_EXHDR(stored);

	while (at < end)
	{
		int64		state_id;
		int64		n;

		at = read_number(at, end, &state_id);
		if (at == NULL || state_id != (int16) state_id || at == end || *at++ != ':')
			jobstate_error_damaged("deltas", stored);
		at = read_number(at, end, &n);
		if (at == NULL || (at < end && (*at++ != ',' || at == end)))
			jobstate_error_damaged("deltas", stored);
		jobstate_deltas_add(deltas, (int16) state_id, n);
	}
}
