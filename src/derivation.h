/*
 * src/derivation.h
 *
 * The rows of jobstate.derivation: whose state follows from whose.
 */
#ifndef JOBSTATE_DERIVATION_H
#define JOBSTATE_DERIVATION_H

#include "nodes/pg_list.h"

#include "key.h"

/* Columns are names, NULL where there is none. */
typedef struct JobstateDerivation
{
	Oid			parent;
	Oid			child;
	int			ord;			/* among the parent's */
	List	   *key;			/* the child's columns that name the parent */
	char	   *rule_set;
	char	   *completed_at;	/* the parent's columns */
	char	   *error;
	char	   *reason;
	char	   *child_error;	/* the child's columns */
	char	   *child_variant;
	List	   *child_order;
} JobstateDerivation;

/* A derivation, as a child's table or a partition of it has its columns */
typedef struct JobstateLink
{
	JobstateDerivation *derivation;
	AttrNumber	key[JOBSTATE_MAX_GROUP];
	AttrNumber	error;			/* or 0 */
	AttrNumber	variant;		/* or 0 */
	int			norder;
	AttrNumber *order;
	Oid			index;			/* that begins with the key, or InvalidOid */
	bool		has_foreign_key;	/* by the key, to the parent */
} JobstateLink;

extern List *jobstate_derivations_of_parent(Oid parent);
extern List *jobstate_derivations_of_child(Oid child);
extern JobstateLink *jobstate_link(Oid relid, JobstateDerivation *derivation);

#endif							/* JOBSTATE_DERIVATION_H */
