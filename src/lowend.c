/*
 * src/lowend.c
 *
 * Where the rows of an index begin.
 *
 * Who looks for the oldest row by an index passes the entries of all rows that
 * were there before it and are gone.  While a snapshot is held that could still
 * see them nobody can remove these entries, and the way grows with every row
 * that goes.  So a session remembers where it found the first row, and begins
 * there the next time.  Where the first row may stay for long it remembers each
 * one that there was, and begins behind all of them.
 *
 * The bound is a hint.  A row below it is one that was committed late, that
 * somebody set back by hand, or that a rollback brought back; it is found by
 * the next look at everything, which the caller says how often it wants.
 * Where the way is short each look is one at everything, and there is no bound.
 * Nor is there one for a transaction that keeps its snapshot, or where row
 * security is applied: what they do not see says nothing about what is there.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/instrument.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "error.h"
#include "recount.h"
#include "transition.h"

PG_FUNCTION_INFO_V1(jobstate_low_end);
PG_FUNCTION_INFO_V1(jobstate_low_ends);

/* A way of so many pages is short: it costs less than to know better. */
#define SHORT_WAY		32

/* Whoever looks at more queues than this does so without bounds. */
#define MAX_LOW_ENDS	1000

/* Where more rows than this stay, a session remembers the first one only. */
#define MAX_KNOWN		256

/* A row that is committed later than this after its own time came late. */
#define LATE			INT64CONST(1000000)

/* What a session knows of one index */
typedef struct LowEnd
{
	uint32		hash;			/* hash key: of sql */
	char	   *sql;			/* what looks at everything */
	int			long_ways;		/* looks at everything in succession that were long */
	TimestampTz bound;			/* no row is below but the known ones, as far as was seen */
	TimestampTz looked;			/* when everything was looked at last */
	int			nknown;
	TimestampTz *known;			/* NULL where only the first row is asked for */
} LowEnd;

static HTAB *low_ends = NULL;

/* The entry for it; NULL if there are too many. */
static LowEnd *
low_end_of(const char *sql, bool several)
{
	uint32		hash = hash_bytes((const unsigned char *) sql, strlen(sql)) + several;
	LowEnd	   *end;
	bool		found;

	if (low_ends == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(uint32);
		ctl.entrysize = sizeof(LowEnd);
		low_ends = hash_create("jobstate low ends", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	end = hash_search(low_ends, &hash, HASH_FIND, NULL);
	if (end == NULL && hash_get_num_entries(low_ends) < MAX_LOW_ENDS)
	{
		char	   *copy = MemoryContextStrdup(TopMemoryContext, sql);
		TimestampTz *known = several ?
			MemoryContextAlloc(TopMemoryContext, MAX_KNOWN * sizeof(TimestampTz)) : NULL;

		end = hash_search(low_ends, &hash, HASH_ENTER, &found);
		end->sql = copy;
		end->known = known;
		end->long_ways = end->nknown = 0;
		end->bound = end->looked = 0;
	}
	return end != NULL && (end->known != NULL) == several &&
		strcmp(end->sql, sql) == 0 ? end : NULL;
}

/* The known rows and behind them the bound, as SQL has them. */
static ArrayType *
known_array(LowEnd *end)
{
	Datum		values[MAX_KNOWN + 1];
	int			i;

	for (i = 0; i < end->nknown; i++)
		values[i] = TimestampTzGetDatum(end->known[i]);
	values[i] = TimestampTzGetDatum(end->bound);
	return construct_array(values, i + 1, TIMESTAMPTZOID, sizeof(TimestampTz),
						   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
}

/*
 * Reads the first rows, one or as many as can be known and one more, from the
 * bound on or all; returns how many.  Tells the pages that it looked at.
 */
static int
first_rows(LowEnd *end, const char *column, bool from_start, TimestampTz *row, int64 *pages)
{
	JobstateParams params = {0};
	StringInfoData sql;
	SPIPlanPtr	plan;
	int64		before;
	bool		isnull;
	int			n;
	int			i;

	(void) jobstate_param(&params, TIMESTAMPTZOID, TimestampTzGetDatum(end->bound));
	(void) jobstate_param(&params, TIMESTAMPTZARRAYOID, PointerGetDatum(known_array(end)));
	initStringInfo(&sql);
	appendStringInfo(&sql, "%s AND %s %s", end->sql, column,
					 from_start ? "IS NOT NULL" : "OPERATOR(pg_catalog.>=) $1");
	if (!from_start && end->nknown > 0)
		/* not OR: a few rows would be filtered out of all that are dead */
		appendStringInfo(&sql, " UNION ALL %s AND %s OPERATOR(pg_catalog.=) ANY ($2)"
						 " AND %s OPERATOR(pg_catalog.<) $1", end->sql, column, column);
	appendStringInfo(&sql, " ORDER BY %s LIMIT %d", column, end->known ? MAX_KNOWN + 1 : 1);

	jobstate_spi_connect();
	plan = jobstate_kept_plan(sql.data, &params);
	before = pgBufferUsage.shared_blks_hit + pgBufferUsage.shared_blks_read;
	if (SPI_execute_plan(plan, params.value, params.null, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of \"%s\"", sql.data);
	*pages = pgBufferUsage.shared_blks_hit + pgBufferUsage.shared_blks_read - before;
	n = (int) SPI_processed;
	for (i = 0; i < n; i++)
		row[i] = DatumGetTimestampTz(jobstate_spi_value(i, 1, &isnull));
	jobstate_spi_finish();
	return n;
}

/* A long way counts once it was long twice: first there are caches to be filled. */
static bool
is_known(LowEnd *end)
{
	return end->long_ways > 1;
}

/*
 * Keeps what was found: each row, if these are all, or the first.  The bound
 * stays behind the clock, so that what is committed a little late is above it.
 */
static void
keep(LowEnd *end, TimestampTz *row, int n, TimestampTz now)
{
	end->nknown = 0;
	end->bound = now - LATE;
	if (end->known != NULL && n <= MAX_KNOWN)
	{
		while (end->nknown < n && row[end->nknown] < end->bound)
		{
			end->known[end->nknown] = row[end->nknown];
			end->nknown++;
		}
	}
	else if (n > 0)
		end->bound = Min(row[0], end->bound);
}

/* Looks for the first rows, from the bound or from the start. */
static void
look(LowEnd *end, const char *column, int64 every)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		from_start = !is_known(end) || now < end->looked || now - end->looked >= every;
	TimestampTz row[MAX_KNOWN + 1];
	int64		pages;
	int			n;

	n = first_rows(end, column, from_start, row, &pages);
	if (from_start)
	{
		end->long_ways = pages > SHORT_WAY ? end->long_ways + 1 : 0;
		end->looked = now;
	}
	keep(end, row, n, now);
}

/*
 * What low_end() and low_ends() have in common; NULL where nothing is known, or
 * is not for this transaction.
 */
static LowEnd *
looked_up(FunctionCallInfo fcinfo, bool several)
{
	static const char *const argument[] = {"target", "age_column", "condition", "every"};
	Oid			relid;
	const char *column;
	LowEnd	   *end;
	int			i;

	for (i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			jobstate_error_null(argument[i]);
	relid = PG_GETARG_OID(0);
	column = quote_identifier(NameStr(*PG_GETARG_NAME(1)));
	if (IsolationUsesXactSnapshot() ||
		get_atttype(relid, get_attnum(relid, NameStr(*PG_GETARG_NAME(1)))) != TIMESTAMPTZOID ||
		check_enable_rls(relid, InvalidOid, true) == RLS_ENABLED)
		return NULL;
	end = low_end_of(psprintf("SELECT %s FROM %s WHERE %s", column, jobstate_table_rows(relid),
							  text_to_cstring(PG_GETARG_TEXT_PP(2))), several);
	if (end == NULL)
		return NULL;
	look(end, column, (int64) PG_GETARG_INT32(3) * USECS_PER_SEC);
	return is_known(end) ? end : NULL;
}

/*
 * low_end(target, age_column, condition, every) returns timestamptz: from where on
 * this column, a timestamptz, has rows of the condition.  An index begins with it.
 * Everything is looked at once in so many seconds.
 */
Datum
jobstate_low_end(PG_FUNCTION_ARGS)
{
	LowEnd	   *end = looked_up(fcinfo, false);

	PG_RETURN_TIMESTAMPTZ(end != NULL ? end->bound : DT_NOBEGIN);
}

/*
 * low_ends(target, age_column, condition, every) returns timestamptz[]: the
 * column's values in the rows that there are, and at last the one from where on
 * there may be others.
 */
Datum
jobstate_low_ends(PG_FUNCTION_ARGS)
{
	static LowEnd nothing = {.bound = DT_NOBEGIN};
	LowEnd	   *end = looked_up(fcinfo, true);

	PG_RETURN_ARRAYTYPE_P(known_array(end != NULL ? end : &nothing));
}
