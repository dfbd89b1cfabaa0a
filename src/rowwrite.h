/*
 * src/rowwrite.h
 *
 * Writing rows of a watched table from C.
 */
#ifndef JOBSTATE_ROWWRITE_H
#define JOBSTATE_ROWWRITE_H

#include "access/tableam.h"
#include "nodes/execnodes.h"

#include "attachment.h"

/* A column's default, ready to be computed */
typedef struct JobstateDefault
{
	AttrNumber	attno;
	ExprState  *expr;
} JobstateDefault;

/* A table or partition that is being written */
typedef struct JobstateRowWriter
{
	Relation	rel;
	JobstateWatched *watched;	/* NULL: let its triggers do it */
	CommandId	cid;
	EState	   *estate;			/* NULL: not needed so far */
	ResultRelInfo *rri;			/* likewise */
	EPQState	epq;
	bool		indexes_open;
	bool		may_update;		/* replica identity was looked at */
	List	   *defaults;		/* of JobstateDefault */
} JobstateRowWriter;

extern void jobstate_rows_check_rights(Oid target, AclMode rights);
extern void jobstate_rows_refuse_triggers(Relation target);
extern bool jobstate_row_writer_is_direct(Relation rel);
extern JobstateRowWriter *jobstate_row_writer_open(Relation rel);
extern bool jobstate_row_seems_locked(TupleTableSlot *slot);
extern TM_Result jobstate_row_lock(JobstateRowWriter *writer,
								   TupleTableSlot *found, Snapshot snapshot,
								   bool wait, TupleTableSlot *locked);
extern TM_Result jobstate_row_update(JobstateRowWriter *writer,
									 TupleTableSlot *oldslot,
									 TupleTableSlot *newslot,
									 Snapshot snapshot, bool wait);
extern void jobstate_row_add_default(JobstateRowWriter *writer, AttrNumber attno);
extern void jobstate_row_defaults(JobstateRowWriter *writer, TupleTableSlot *row);
extern void jobstate_rows_insert(JobstateRowWriter *writer,
								 TupleTableSlot **slots, int n);
extern void jobstate_row_writer_close(JobstateRowWriter *writer);

#endif							/* JOBSTATE_ROWWRITE_H */
