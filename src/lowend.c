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
 * Nor is there one for a transaction that keeps its snapshot: what that does not
 * see says nothing about what is there.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/instrument.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "error.h"
#include "lowend.h"
#include "recount.h"
#include "transition.h"

PG_FUNCTION_INFO_V1(jobstate_low_end_at);

/* A way of so many pages is short: it costs less than to know better. */
#define SHORT_WAY		32

/* Whoever looks at more queues than this does so without bounds. */
#define MAX_LOW_ENDS	1000

/* A row that is committed later than this after its own time came late. */
#define LATE			INT64CONST(1000000)

typedef struct LowEndKey
{
	Oid			relid;
	uint32		hash;			/* of the column's name and the condition */
} LowEndKey;

/* What a session knows of one index */
typedef struct LowEnd
{
	LowEndKey	key;			/* hash key */
	int			long_ways;		/* looks at everything in succession that were long */
	bool		known;			/* bound is set */
	int64		bound;			/* no row is below, as far as was seen */
	TimestampTz looked;			/* when everything was looked at last */
} LowEnd;

static HTAB *low_ends = NULL;

/* The entry for it; NULL if there are too many. */
static LowEnd *
low_end_of(Oid relid, const char *sql)
{
	LowEndKey	key = {relid, hash_bytes((const unsigned char *) sql, strlen(sql))};
	LowEnd	   *end;
	bool		found;

	if (low_ends == NULL)
	{
		HASHCTL		ctl;

		ctl.keysize = sizeof(LowEndKey);
		ctl.entrysize = sizeof(LowEnd);
		low_ends = hash_create("jobstate low ends", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	if (hash_get_num_entries(low_ends) >= MAX_LOW_ENDS)
		return hash_search(low_ends, &key, HASH_FIND, NULL);
	end = hash_search(low_ends, &key, HASH_ENTER, &found);
	if (!found)
	{
		end->long_ways = 0;
		end->known = false;
		end->bound = 0;
		end->looked = 0;
	}
	return end;
}

/* Runs the query for the first row; tells the pages that it looked at. */
static bool
first_row(const char *sql, JobstateParams *params, int64 *first, int64 *pages)
{
	SPIPlanPtr	plan;
	int64		before;
	bool		found;
	bool		isnull;

	jobstate_spi_connect();
	plan = jobstate_kept_plan(sql, params);
	before = pgBufferUsage.shared_blks_hit + pgBufferUsage.shared_blks_read;
	if (SPI_execute_plan(plan, params->value, params->null, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of \"%s\"", sql);
	*pages = pgBufferUsage.shared_blks_hit + pgBufferUsage.shared_blks_read - before;
	found = SPI_processed > 0;
	if (found)
		*first = DatumGetInt64(jobstate_spi_value(0, 1, &isnull));
	jobstate_spi_finish();
	return found;
}

/*
 * Looks for the first row, from the bound or from the start, and keeps where it
 * was.  Times stay behind the clock, so that what is committed a little late is
 * above the bound.  A long way counts once it was long twice: the first time it
 * may have been the caches that had to be filled.
 */
static void
look(LowEnd *end, const char *sql, Oid type, bool from_start, TimestampTz now)
{
	JobstateParams params = {0};
	int64		first = 0;
	int64		pages;
	bool		found;

	(void) jobstate_param(&params, type, Int64GetDatum(end->bound));
	found = first_row(sql, &params, &first, &pages);
	if (from_start)
	{
		end->long_ways = pages > SHORT_WAY ? end->long_ways + 1 : 0;
		end->looked = now;
		end->known = false;
	}
	if (type == TIMESTAMPTZOID)
		first = found ? Min(first, now - LATE) : now - LATE;
	else if (!found)
		return;
	end->bound = first;
	end->known = end->long_ways > 1;
}

/* What the column is compared as: any integer as a bigint */
static Oid
compared_as(Oid relid, const char *column)
{
	Oid			type = getBaseType(get_atttype(relid, get_attnum(relid, column)));

	return type == INT2OID || type == INT4OID ? INT8OID : type;
}

/*
 * Is there a bound below which this column has no row of the condition?  An index
 * begins with it.  Its type is bigint, which stands for all integers, or
 * timestamptz; there is no bound where it has another one.  Everything is looked
 * at once in so many microseconds.
 */
bool
jobstate_low_end(Oid relid, const char *column, Oid type, const char *condition,
				 int64 every, int64 *bound)
{
	const char *name = quote_identifier(column);
	TimestampTz now = GetCurrentTimestamp();
	bool		from_start;
	LowEnd	   *end;
	char	   *all;

	if (compared_as(relid, column) != type || IsolationUsesXactSnapshot())
		return false;
	all = psprintf("SELECT %s::%s AS low_end FROM %s WHERE %s", name, format_type_be_qualified(type),
				   jobstate_table_rows(relid), condition);
	end = low_end_of(relid, all);
	if (end == NULL)
		return false;
	from_start = !end->known || now < end->looked || now - end->looked >= every;
	look(end, psprintf("%s AND %s %s ORDER BY %s LIMIT 1", all, name,
					   from_start ? "IS NOT NULL" : "OPERATOR(pg_catalog.>=) $1", name),
		 type, from_start, now);
	*bound = end->bound;
	return end->known;
}

/* low_end(target, age_column, condition, every) returns timestamptz */
Datum
jobstate_low_end_at(PG_FUNCTION_ARGS)
{
	static const char *const argument[] = {"target", "age_column", "condition", "every"};
	Interval   *every;
	int64		bound;
	int			i;

	for (i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			jobstate_error_null(argument[i]);
	every = PG_GETARG_INTERVAL_P(3);
	if (!jobstate_low_end(PG_GETARG_OID(0), NameStr(*PG_GETARG_NAME(1)), TIMESTAMPTZOID,
						  text_to_cstring(PG_GETARG_TEXT_PP(2)), every->time, &bound))
		PG_RETURN_TIMESTAMPTZ(DT_NOBEGIN);
	PG_RETURN_TIMESTAMPTZ((TimestampTz) bound);
}
