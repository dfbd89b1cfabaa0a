/*
 * src/constraint.h
 *
 * NOT NULL and CHECK constraints of rows that are written from C.
 */
#ifndef JOBSTATE_CONSTRAINT_H
#define JOBSTATE_CONSTRAINT_H

#include "executor/tuptable.h"
#include "utils/relcache.h"

extern bool jobstate_constraints_hold(Relation rel, TupleTableSlot *slot);

#endif							/* JOBSTATE_CONSTRAINT_H */
