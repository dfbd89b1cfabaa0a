/*
 * src/lowend.c
 *
 * Where the rows of an index begin.
 *
 * Who looks for the oldest row by an index passes the entries of all rows that
 * were there before it and are gone.  While a snapshot is held that could still
 * see them nobody can remove these entries, and the way grows with every row
 * that goes.  So a session remembers where it found the first row, and begins
 * there the next time.
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

/* A way of so many pages is short: it costs less than to know better. */
#define SHORT_WAY		32

/* Whoever looks at more queues than this does so without bounds. */
#define MAX_LOW_ENDS	1000

/* A row that is committed later than this after its own time came late. */
#define LATE			INT64CONST(1000000)

/* What a session knows of one index */
typedef struct LowEnd
{
	uint32		hash;			/* hash key: of sql */
	char	   *sql;			/* what looks at everything */
	int			long_ways;		/* looks at everything in succession that were long */
	TimestampTz bound;			/* no row is below, as far as was seen */
	TimestampTz looked;			/* when everything was looked at last */
} LowEnd;

static HTAB *low_ends = NULL;

/* The entry for it; NULL if there are too many. */
static LowEnd *
low_end_of(const char *sql)
{
	uint32		hash = hash_bytes((const unsigned char *) sql, strlen(sql));
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

		end = hash_search(low_ends, &hash, HASH_ENTER, &found);
		end->sql = copy;
		end->long_ways = 0;
		end->bound = end->looked = 0;
	}
	return end != NULL && strcmp(end->sql, sql) == 0 ? end : NULL;
}

/* Runs the query for the first row; tells the pages that it looked at. */
static bool
first_row(const char *sql, TimestampTz since, TimestampTz *first, int64 *pages)
{
	JobstateParams params = {0};
	SPIPlanPtr	plan;
	int64		before;
	bool		found;
	bool		isnull;

	(void) jobstate_param(&params, TIMESTAMPTZOID, TimestampTzGetDatum(since));
	jobstate_spi_connect();
	plan = jobstate_kept_plan(sql, &params);
	before = pgBufferUsage.shared_blks_hit + pgBufferUsage.shared_blks_read;
	if (SPI_execute_plan(plan, params.value, params.null, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of \"%s\"", sql);
	*pages = pgBufferUsage.shared_blks_hit + pgBufferUsage.shared_blks_read - before;
	found = SPI_processed > 0;
	if (found)
		*first = DatumGetTimestampTz(jobstate_spi_value(0, 1, &isnull));
	jobstate_spi_finish();
	return found;
}

/* A long way counts once it was long twice: first there are caches to be filled. */
static bool
is_known(LowEnd *end)
{
	return end->long_ways > 1;
}

/*
 * Looks for the first row, from the bound or from the start, and keeps where it
 * was.  The bound stays behind the clock, so that what is committed a little late
 * is above it.
 */
static void
look(LowEnd *end, const char *column, int64 every)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		from_start = !is_known(end) || now < end->looked || now - end->looked >= every;
	TimestampTz first;
	int64		pages;

	if (!first_row(psprintf("%s AND %s %s ORDER BY %s LIMIT 1", end->sql, column,
							from_start ? "IS NOT NULL" : "OPERATOR(pg_catalog.>=) $1", column),
				   end->bound, &first, &pages))
		first = now;
	if (from_start)
	{
		end->long_ways = pages > SHORT_WAY ? end->long_ways + 1 : 0;
		end->looked = now;
	}
	end->bound = Min(first, now - LATE);
}

/*
 * low_end(target, age_column, condition, every) returns timestamptz: from where on
 * this column, a timestamptz, has rows of the condition.  An index begins with it.
 * Everything is looked at once in so many seconds.
 */
Datum
jobstate_low_end(PG_FUNCTION_ARGS)
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
		PG_RETURN_TIMESTAMPTZ(DT_NOBEGIN);
	end = low_end_of(psprintf("SELECT %s FROM %s WHERE %s", column, jobstate_table_rows(relid),
							  text_to_cstring(PG_GETARG_TEXT_PP(2))));
	if (end == NULL)
		PG_RETURN_TIMESTAMPTZ(DT_NOBEGIN);
	look(end, column, (int64) PG_GETARG_INT32(3) * USECS_PER_SEC);
	if (!is_known(end))
		PG_RETURN_TIMESTAMPTZ(DT_NOBEGIN);
	PG_RETURN_TIMESTAMPTZ(end->bound);
}
