/*
 * src/family.h
 *
 * What the families want done now and then.
 */
#ifndef JOBSTATE_FAMILY_H
#define JOBSTATE_FAMILY_H

#include "nodes/pg_list.h"

/* What a step of a family's maintenance says */
typedef enum JobstateFamilyStep
{
	JOBSTATE_FAMILY_MORE,		/* of the same step */
	JOBSTATE_FAMILY_NEXT,		/* step */
	JOBSTATE_FAMILY_DONE
} JobstateFamilyStep;

extern List *jobstate_family_hooks(void);
extern JobstateFamilyStep jobstate_family_maintain(const char *hook, int step);

#endif							/* JOBSTATE_FAMILY_H */
