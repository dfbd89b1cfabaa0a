/*
 * src/lowend.h
 *
 * Where the rows of an index begin.
 */
#ifndef JOBSTATE_LOWEND_H
#define JOBSTATE_LOWEND_H

#include "datatype/timestamp.h"

extern bool jobstate_low_end(Oid relid, const char *column, Oid type,
							 const char *condition, int64 every, int64 *bound);

#endif							/* JOBSTATE_LOWEND_H */
