/*
 * src/log.h
 *
 * The counter log and its base: tables of one shape, only ever appended to and
 * truncated.
 */
#ifndef JOBSTATE_LOG_H
#define JOBSTATE_LOG_H

#include "datatype/timestamp.h"
#include "storage/block.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

/* A segment of this size wants to be folded: about 10,000 rows */
#define JOBSTATE_SEGMENT_FULL	((BlockNumber) 64)

/* Rows of the log that belong to nobody's counters */
#define JOBSTATE_EPOCH_HEADER	INT64CONST(0)
#define JOBSTATE_EPOCH_FULL		INT64CONST(-1)

typedef struct JobstateLogRow
{
	int64		epoch;
	uint32		hash;
	text	   *key;
	text	   *deltas;			/* see delta.c; empty = counted */
	bool		own;			/* read: written by this transaction; only
								 * told of headers and markers */
} JobstateLogRow;

/* The marker: from here on the rows of this epoch are the counts */
#define jobstate_log_is_marker(row)	(VARSIZE_ANY_EXHDR((row)->deltas) == 0)

typedef void (*JobstateLogVisitor) (JobstateLogRow *row, bool visible,
									void *arg);

extern JobstateLogRow jobstate_log_marker(int64 epoch);
extern bool jobstate_log_append(JobstateLogRow *row, int n);
extern TimestampTz jobstate_log_full_since(Relation rel);
extern void jobstate_log_insert(Relation rel, JobstateLogRow *row, int n,
								bool with_index);
extern void jobstate_log_empty(Oid relid);
extern void jobstate_log_scan(Relation rel, const int64 *epoch,
							  Snapshot snapshot, Snapshot newest,
							  JobstateLogVisitor visit, void *arg);
extern void jobstate_log_scan_key(Relation rel, Relation index,
								  const int64 *epoch, const uint32 *hash,
								  Snapshot snapshot,
								  JobstateLogVisitor visit, void *arg);

#endif							/* JOBSTATE_LOG_H */
