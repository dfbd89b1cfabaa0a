/*
 * src/rules.h
 *
 * From the states of all children to one state: rules as data.
 */
#ifndef JOBSTATE_RULES_H
#define JOBSTATE_RULES_H

#include "nodes/pg_list.h"

typedef struct JobstateRule
{
	int			ord;			/* its place, from 1 */
	char	   *text;			/* its conditions, as they were defined */
	char	   *result;			/* name of a state */
	List	   *conditions;		/* of RuleCondition: all must hold */
} JobstateRule;

/* Never changes once compiled */
typedef struct JobstateRuleSet
{
	char	   *name;
	char	   *unknown;		/* the state that a NULL counts as, or NULL */
	List	   *rules;			/* of JobstateRule, the first match wins */
	bool		is_ordered;		/* is the children's order of any consequence? */
} JobstateRuleSet;

/* What a rule may know of a child */
typedef struct JobstateChild
{
	const char *state;			/* NULL: unknown */
	const char *variant;		/* or NULL */
} JobstateChild;

extern JobstateRuleSet *jobstate_rules_load(const char *name);
extern JobstateRule *jobstate_rules_match(JobstateRuleSet *set,
										  JobstateChild *child, int n);

#endif							/* JOBSTATE_RULES_H */
