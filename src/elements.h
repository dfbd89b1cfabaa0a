/*
 * src/elements.h
 *
 * The elements of an array that a function was given.
 */
#ifndef JOBSTATE_ELEMENTS_H
#define JOBSTATE_ELEMENTS_H

#include "fmgr.h"

typedef struct JobstateElements
{
	int			n;				/* 0 where no array was given */
	Datum	   *value;			/* NULL where no array was given */
	bool	   *isnull;
} JobstateElements;

extern void jobstate_elements_read(FunctionCallInfo fcinfo, int argno, Oid type,
								   JobstateElements *elements);

/* Is there an i-th element that is not null? */
static inline bool
jobstate_elements_has(const JobstateElements *elements, int i)
{
	return i < elements->n && !elements->isnull[i];
}

#endif							/* JOBSTATE_ELEMENTS_H */
