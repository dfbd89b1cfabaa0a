/*
 * src/rowscan.h
 *
 * The rows of a table that have a key, as a snapshot sees them.
 */
#ifndef JOBSTATE_ROWSCAN_H
#define JOBSTATE_ROWSCAN_H

#include "access/genam.h"
#include "access/tableam.h"

#include "key.h"

typedef struct JobstateRowScan
{
	Relation	rel;
	TupleTableSlot *slot;		/* the row */

	Relation	index;			/* NULL: every row is looked at */
	IndexScanDesc index_scan;
	TableScanDesc table_scan;
	ScanKeyData scankey[JOBSTATE_MAX_GROUP];

	JobstateKeySpec *spec;
	JobstateKeyValues *key;
	AttrNumber *attno;
	Snapshot	snapshot;
} JobstateRowScan;

extern List *jobstate_tables_of(Oid relid, LOCKMODE lockmode);
extern JobstateRowScan *jobstate_row_scan_begin(Relation rel, Oid index,
												JobstateKeySpec *spec,
												JobstateKeyValues *key,
												AttrNumber *attno, Snapshot snapshot);
extern bool jobstate_row_scan_next(JobstateRowScan *scan);
extern bool jobstate_row_has_key(TupleTableSlot *slot, JobstateKeySpec *spec,
								 JobstateKeyValues *key, AttrNumber *attno);
extern void jobstate_row_scan_end(JobstateRowScan *scan);

#endif							/* JOBSTATE_ROWSCAN_H */
