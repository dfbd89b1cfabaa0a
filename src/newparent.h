/*
 * src/newparent.h
 *
 * Parents that come after their children.
 */
#ifndef JOBSTATE_NEWPARENT_H
#define JOBSTATE_NEWPARENT_H

#include "touched.h"

extern void jobstate_new_parents_lock(JobstateTouched *touched, int n);
extern bool jobstate_new_parent_missing(JobstateTouched *touched);

#endif							/* JOBSTATE_NEWPARENT_H */
