/*
 * src/logstate.c
 *
 * How large the counter log is, and when it was folded last.
 *
 * What is asked here is asked while something is wrong: a table that a fold has
 * locked is passed over, never waited for.
 */
#include "postgres.h"

#include "access/table.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "log.h"

PG_FUNCTION_INFO_V1(jobstate_log_tables);
PG_FUNCTION_INFO_V1(jobstate_last_fold);
PG_FUNCTION_INFO_V1(jobstate_log_full_since_when);

/*
 * The rows of a table of the log, finished or not.  They leave by truncation
 * only, so each item of a page is one.  Beyond the size of a full segment the
 * other pages are taken to hold as many.
 */
static int64
rows_of(Relation rel, BlockNumber nblocks)
{
	BlockNumber looked = Min(nblocks, JOBSTATE_SEGMENT_FULL);
	BlockNumber block;
	int64		rows = 0;

	for (block = 0; block < looked; block++)
	{
		Buffer		buffer = ReadBuffer(rel, block);

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		rows += PageGetMaxOffsetNumber(BufferGetPage(buffer));
		UnlockReleaseBuffer(buffer);
	}
	return looked < nblocks ? rows * nblocks / looked : rows;
}

static void
put_table(ReturnSetInfo *rsinfo, Oid relid, bool is_segment)
{
	Datum		values[4];
	bool		nulls[4] = {false, true, true, true};

	values[0] = ObjectIdGetDatum(relid);
	if (ConditionalLockRelationOid(relid, AccessShareLock))
	{
		Relation	rel = table_open(relid, NoLock);
		BlockNumber nblocks = RelationGetNumberOfBlocks(rel);

		values[1] = Int64GetDatum((int64) nblocks * BLCKSZ);
		values[2] = Int64GetDatum(rows_of(rel, nblocks));
		values[3] = BoolGetDatum(is_segment && nblocks > JOBSTATE_SEGMENT_FULL);
		memset(nulls, false, sizeof(nulls));
		table_close(rel, AccessShareLock);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* log_tables() returns (relation, bytes, log_rows, is_full) */
Datum
jobstate_log_tables(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	JobstateCatalog catalog = *jobstate_catalog();
	int			i;

	InitMaterializedSRF(fcinfo, 0);
	for (i = 0; i < JOBSTATE_SEGMENTS; i++)
		put_table(rsinfo, catalog.segment[i], true);
	put_table(rsinfo, catalog.recent, false);
	for (i = 0; i < 2; i++)
		put_table(rsinfo, catalog.settled[i], false);
	return (Datum) 0;
}

/* The headers of folds carry their times; those of an older version none. */
static void
visit_header(JobstateLogRow *row, bool visible, void *arg)
{
	TimestampTz *newest = arg;
	char	   *key = text_to_cstring(row->key);

	if (row->epoch == JOBSTATE_EPOCH_HEADER && key[0] != '\0')
		*newest = Max(*newest, strtoi64(key, NULL, 10));
	pfree(key);
}

/* last_fold() returns timestamptz: null where nobody folded yet, or folds now */
Datum
jobstate_last_fold(PG_FUNCTION_ARGS)
{
	Oid			recent = jobstate_catalog()->recent;
	int64		epoch = JOBSTATE_EPOCH_HEADER;
	TimestampTz newest = DT_NOBEGIN;
	Snapshot	snapshot;
	Relation	rel;

	if (!ConditionalLockRelationOid(recent, AccessShareLock))
		PG_RETURN_NULL();
	rel = table_open(recent, NoLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	jobstate_log_scan(rel, &epoch, snapshot, NULL, visit_header, &newest);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	if (newest == DT_NOBEGIN)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(newest);
}

/* log_full_since() returns timestamptz: of the segments that are not being folded */
Datum
jobstate_log_full_since_when(PG_FUNCTION_ARGS)
{
	JobstateCatalog catalog = *jobstate_catalog();
	TimestampTz first = DT_NOEND;
	int			i;

	for (i = 0; i < JOBSTATE_SEGMENTS; i++)
	{
		Relation	rel;

		if (!ConditionalLockRelationOid(catalog.segment[i], AccessShareLock))
			continue;
		rel = table_open(catalog.segment[i], NoLock);
		first = Min(first, jobstate_log_full_since(rel));
		table_close(rel, AccessShareLock);
	}
	if (first == DT_NOEND)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(first);
}
