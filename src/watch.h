/*
 * src/watch.h
 *
 * What is done about each row that is written.
 */
#ifndef JOBSTATE_WATCH_H
#define JOBSTATE_WATCH_H

#include "attachment.h"

extern void jobstate_watch_inserted(JobstateWatched *watched, Relation rel,
									TupleTableSlot *slot);
extern void jobstate_watch_updated(JobstateWatched *watched, Relation rel,
								   TupleTableSlot *oldslot,
								   TupleTableSlot *newslot);

#endif							/* JOBSTATE_WATCH_H */
