/*
 * src/touched.h
 *
 * The parents whose children this transaction has touched.
 */
#ifndef JOBSTATE_TOUCHED_H
#define JOBSTATE_TOUCHED_H

#include "attachment.h"

/* A derived row that may have to change */
typedef struct JobstateTouched
{
	JobstateAttachment *parent;
	uint32		hash;
	JobstateKeyValues key;		/* of its primary key */
	bool		is_new;			/* may have come by this transaction */
} JobstateTouched;

extern void jobstate_touched_init(void);
extern void jobstate_touch_row(JobstateWatched *watched, TupleTableSlot *slot,
							   bool is_new);
extern void jobstate_touch_update(JobstateWatched *watched, TupleTableSlot *oldslot,
								  TupleTableSlot *newslot, bool state_changed);
extern void jobstate_touch_all(Oid parent);
extern void jobstate_touch_parents_of(Oid child);

extern bool jobstate_touched_any(void);
extern JobstateTouched *jobstate_touched_take(int *n);

#endif							/* JOBSTATE_TOUCHED_H */
