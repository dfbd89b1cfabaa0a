/*
 * src/rules.c
 *
 * From the states of all children to one state.
 *
 * A rule set is rows of jobstate.rule.  A rule holds if each of its conditions
 * does; the first rule that holds tells the state.  Children that look alike
 * are one kind, so a rule costs no more for ten thousand children than for one
 * of each kind.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "catalog.h"
#include "error.h"
#include "rules.h"

PG_FUNCTION_INFO_V1(jobstate_fold_rules);

/* jobstate.rule, as the install script makes it */
enum
{
	Anum_rule_set = 1,
	Anum_rule_ord,
	Anum_rule_part,
	Anum_rule_quantifier,
	Anum_rule_states,
	Anum_rule_result
};
enum
{
	Anum_rule_set_name = 1,
	Anum_rule_set_unknown
};

typedef enum Quantifier
{
	RULE_EMPTY,					/* there is no child */
	RULE_ALWAYS,
	RULE_ANY,					/* some child is in one of the states */
	RULE_ANY_NOT,				/* some child is in none of them */
	RULE_ALL,					/* every child is in one of them */
	RULE_NONE,					/* no child is */
	RULE_LATER,					/* one is that comes after the first of "any" */
	RULE_LATER_NOT				/* one is not that comes after it */
} Quantifier;

static const char *const quantifier_name[] = {
	"empty", "always", "any", "any not", "all", "none", "later", "later not"
};

/* "failed", or "failed/halt" */
typedef struct RuleLabel
{
	char	   *whole;
	char	   *state;
	char	   *variant;		/* NULL: any */
} RuleLabel;

typedef struct RuleCondition
{
	Quantifier	quantifier;
	int			nlabels;
	RuleLabel  *label;
} RuleCondition;

/* Children that look alike, and where the first and the last of them stand */
typedef struct ChildKind
{
	JobstateChild child;
	int			first;
	int			last;
} ChildKind;

static Datum
column(HeapTuple tuple, Relation rel, int attnum, bool *isnull)
{
	return heap_getattr(tuple, attnum, RelationGetDescr(rel), isnull);
}

static char *
text_column(HeapTuple tuple, Relation rel, int attnum)
{
	bool		isnull;
	Datum		value = column(tuple, rel, attnum, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

static Quantifier
quantifier_by_name(const char *name)
{
	int			i;

	for (i = 0; i < lengthof(quantifier_name); i++)
		if (strcmp(quantifier_name[i], name) == 0)
			return i;
	elog(ERROR, "unknown quantifier \"%s\"", name);
}

static RuleLabel
make_label(char *whole)
{
	RuleLabel	label = {whole, whole, NULL};
	char	   *slash = strrchr(whole, '/');

	if (slash != NULL)
	{
		label.state = pnstrdup(whole, slash - whole);
		label.variant = slash + 1;
	}
	return label;
}

static RuleCondition *
load_condition(HeapTuple tuple, Relation rel)
{
	RuleCondition *condition = palloc0(sizeof(RuleCondition));
	bool		isnull;
	Datum	   *states;
	int			i;

	condition->quantifier = quantifier_by_name(text_column(tuple, rel, Anum_rule_quantifier));
	deconstruct_array(DatumGetArrayTypePCopy(column(tuple, rel, Anum_rule_states, &isnull)),
					  TEXTOID, -1, false, TYPALIGN_INT,
					  &states, NULL, &condition->nlabels);
	condition->label = palloc(sizeof(RuleLabel) * Max(condition->nlabels, 1));
	for (i = 0; i < condition->nlabels; i++)
		condition->label[i] = make_label(TextDatumGetCString(states[i]));
	return condition;
}

static void
append_condition(StringInfo buf, RuleCondition *condition)
{
	int			i;

	appendStringInfo(buf, "%s%s", buf->len > 0 ? " and " : "",
					 quantifier_name[condition->quantifier]);
	for (i = 0; i < condition->nlabels; i++)
		appendStringInfo(buf, "%s %s", i > 0 ? "," : "", condition->label[i].whole);
}

static void
finish_rule(JobstateRule *rule)
{
	StringInfoData buf;
	ListCell   *cell;

	initStringInfo(&buf);
	foreach(cell, rule->conditions)
		append_condition(&buf, lfirst(cell));
	rule->text = buf.data;
}

/* Rows come in the order of (ord, part): conditions of one rule are together. */
static void
load_rules(JobstateRuleSet *set)
{
	Relation	rel = table_open(jobstate_catalog()->rule, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan = jobstate_catalog_scan(rel, jobstate_catalog()->rule_pkey, set->name, &key);
	JobstateRule *rule = NULL;
	HeapTuple	tuple;
	ListCell   *cell;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		int			ord = DatumGetInt16(column(tuple, rel, Anum_rule_ord, &isnull));
		RuleCondition *condition = load_condition(tuple, rel);

		if (rule == NULL || rule->ord != ord)
		{
			rule = palloc0(sizeof(JobstateRule));
			rule->ord = ord;
			rule->result = text_column(tuple, rel, Anum_rule_result);
			set->rules = lappend(set->rules, rule);
		}
		rule->conditions = lappend(rule->conditions, condition);
		set->is_ordered |= condition->quantifier == RULE_LATER ||
			condition->quantifier == RULE_LATER_NOT;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	foreach(cell, set->rules)
		finish_rule(lfirst(cell));
}

/* Compiles a rule set into the current memory context. */
JobstateRuleSet *
jobstate_rules_load(const char *name)
{
	JobstateRuleSet *set = palloc0(sizeof(JobstateRuleSet));
	Relation	rel = table_open(jobstate_catalog()->rule_set, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan = jobstate_catalog_scan(rel, jobstate_catalog()->rule_set_pkey, name, &key);
	HeapTuple	tuple = systable_getnext(scan);

	if (!HeapTupleIsValid(tuple))
		jobstate_error_no_rule_set(name);
	set->name = pstrdup(name);
	set->unknown = text_column(tuple, rel, Anum_rule_set_unknown);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	load_rules(set);
	return set;
}

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* Sorts the children by kind. */
static int
find_kinds(JobstateRuleSet *set, JobstateChild *child, int n, ChildKind **kinds)
{
	int			max = 16;
	int			nkinds = 0;
	ChildKind  *kind = palloc(sizeof(ChildKind) * max);
	int			i;
	int			j;

	for (i = 0; i < n; i++)
	{
		const char *state = child[i].state != NULL ? child[i].state : set->unknown;

		for (j = 0; j < nkinds; j++)
			if (same_text(kind[j].child.state, state) &&
				same_text(kind[j].child.variant, child[i].variant))
				break;
		if (j == nkinds)
		{
			if (nkinds == max)
				kind = repalloc(kind, sizeof(ChildKind) * (max *= 2));
			kind[nkinds].child.state = state;
			kind[nkinds].child.variant = child[i].variant;
			kind[nkinds++].first = i;
		}
		kind[j].last = i;
	}
	*kinds = kind;
	return nkinds;
}

static bool
is_labelled(RuleCondition *condition, ChildKind *kind)
{
	int			i;

	for (i = 0; i < condition->nlabels; i++)
	{
		RuleLabel  *label = &condition->label[i];

		if (same_text(kind->child.state, label->whole) ||
			(label->variant != NULL && same_text(kind->child.state, label->state) &&
			 same_text(kind->child.variant, label->variant)))
			return true;
	}
	return false;
}

/*
 * Does the condition hold?  "first" is where the first child stands that the
 * rule's last "any" was about.
 */
static bool
holds(RuleCondition *condition, ChildKind *kind, int nkinds, int *first)
{
	int			nlabelled = 0;
	int			earliest = INT_MAX;
	int			latest = -1;
	bool		wanted = condition->quantifier != RULE_ANY_NOT &&
		condition->quantifier != RULE_LATER_NOT;
	int			i;

	for (i = 0; i < nkinds; i++)
		if (is_labelled(condition, &kind[i]) == wanted)
		{
			nlabelled++;
			earliest = Min(earliest, kind[i].first);
			latest = Max(latest, kind[i].last);
		}
	switch (condition->quantifier)
	{
		case RULE_EMPTY:
			return nkinds == 0;
		case RULE_ALWAYS:
			return true;
		case RULE_ANY:
		case RULE_ANY_NOT:
			*first = earliest;
			return nlabelled > 0;
		case RULE_ALL:
			return nkinds > 0 && nlabelled == nkinds;
		case RULE_NONE:
			return nlabelled == 0;
		case RULE_LATER:
		case RULE_LATER_NOT:
			return latest > *first;
	}
	return false;				/* not reached */
}

/* The first rule that holds for these children, which come in order; or NULL. */
JobstateRule *
jobstate_rules_match(JobstateRuleSet *set, JobstateChild *child, int n)
{
	ChildKind  *kind;
	int			nkinds = find_kinds(set, child, n, &kind);
	ListCell   *cell;

	foreach(cell, set->rules)
	{
		JobstateRule *rule = lfirst(cell);
		int			first = INT_MAX;
		bool		match = true;
		ListCell   *part;

		foreach(part, rule->conditions)
			match = match && holds(lfirst(part), kind, nkinds, &first);
		if (match)
			return rule;
	}
	return NULL;
}

/* The rule set that fold() used last: who folds many lists names one again. */
static JobstateRuleSet *
kept_rule_set(const char *name)
{
	static MemoryContext context = NULL;
	static JobstateRuleSet *kept = NULL;
	static uint64 generation = 0;
	MemoryContext before;

	if (kept != NULL && generation == jobstate_catalog_generation() &&
		strcmp(kept->name, name) == 0)
		return kept;
	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "jobstate rule set",
										ALLOCSET_SMALL_SIZES);
	kept = NULL;
	MemoryContextReset(context);
	generation = jobstate_catalog_generation();
	before = MemoryContextSwitchTo(context);
	kept = jobstate_rules_load(name);
	MemoryContextSwitchTo(before);
	return kept;
}

static int
strings_of(ArrayType *array, char ***strings)
{
	Datum	   *values;
	bool	   *nulls;
	int			n;
	int			i;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	*strings = palloc(sizeof(char *) * Max(n, 1));
	for (i = 0; i < n; i++)
		(*strings)[i] = nulls[i] ? NULL : TextDatumGetCString(values[i]);
	return n;
}

/* fold(rule_set text, states text[], variants text[]) returns text */
Datum
jobstate_fold_rules(PG_FUNCTION_ARGS)
{
	JobstateRuleSet *set;
	JobstateRule *rule;
	JobstateChild *child;
	char	  **state;
	char	  **variant = NULL;
	int			n;
	int			i;

	if (PG_ARGISNULL(0))
		jobstate_error_null("rule_set");
	if (PG_ARGISNULL(1))
		jobstate_error_null("states");
	set = kept_rule_set(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	n = strings_of(PG_GETARG_ARRAYTYPE_P(1), &state);
	if (!PG_ARGISNULL(2) && strings_of(PG_GETARG_ARRAYTYPE_P(2), &variant) != n)
		jobstate_error_array_lengths("states", "variants");
	child = palloc0(sizeof(JobstateChild) * Max(n, 1));
	for (i = 0; i < n; i++)
	{
		child[i].state = state[i];
		child[i].variant = variant != NULL ? variant[i] : NULL;
	}
	rule = jobstate_rules_match(set, child, n);
	if (rule == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(rule->result));
}
