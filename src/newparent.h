/*
 * src/newparent.h
 *
 * Parents that come after their children.
 */
#ifndef JOBSTATE_NEWPARENT_H
#define JOBSTATE_NEWPARENT_H

#include "touched.h"

extern void jobstate_new_parent_init(void);
extern void jobstate_new_parents_settle(JobstateTouched *touched, int n);
extern bool jobstate_new_parent_await(TransactionId xid);

#endif							/* JOBSTATE_NEWPARENT_H */
