/*
 * src/parentwrite.h
 *
 * Writing a derived parent.
 */
#ifndef JOBSTATE_PARENTWRITE_H
#define JOBSTATE_PARENTWRITE_H

#include "executor/spi.h"

#include "rowwrite.h"
#include "rules.h"
#include "touched.h"

/* A derivation, ready to be worked with; lives with the parent's attachment */
typedef struct JobstateSource
{
	JobstateDerivation *derivation;
	JobstateRuleSet *rules;
	bool		ordered;		/* is the children's order of any consequence? */
	SPIPlanPtr	plan;			/* that writes the parent */
	MemoryContextCallback forget;
} JobstateSource;

/* A parent's row that we have locked */
typedef struct JobstateLockedRow
{
	Relation	rel;			/* the table or the partition where it is */
	JobstateWatched *watched;
	TupleTableSlot *slot;
} JobstateLockedRow;

/* What the children say */
typedef struct JobstateVerdict
{
	JobstateSource *source;
	JobstateRule *rule;
	int			state;
	char	   *error;			/* NULL: it stays what it is */
	char	   *reason;
} JobstateVerdict;

extern void jobstate_parent_write(JobstateTouched *touched, JobstateLockedRow *row,
								  JobstateVerdict *verdict);

#endif							/* JOBSTATE_PARENTWRITE_H */
