/*
 * src/children.h
 *
 * The children of one parent, read for its rules.
 */
#ifndef JOBSTATE_CHILDREN_H
#define JOBSTATE_CHILDREN_H

#include "utils/snapshot.h"

#include "attachment.h"
#include "rules.h"
#include "touched.h"

/* In their order, as far as anybody asks for one */
typedef struct JobstateChildren
{
	int			n;
	JobstateChild *child;		/* what the rules see */
	char	  **error;			/* of each, NULL where there is none */
} JobstateChildren;

extern JobstateChildren *jobstate_children_read(JobstateDerivation *derivation,
												bool ordered,
												JobstateTouched *touched,
												Snapshot snapshot);
extern bool jobstate_children_may_precede(JobstateAttachment *parent);
extern char *jobstate_children_error(JobstateChildren *children, const char *state);

#endif							/* JOBSTATE_CHILDREN_H */
