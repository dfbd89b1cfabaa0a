/*
 * src/constraint.c
 *
 * NOT NULL and CHECK constraints of rows that are written from C.
 *
 * Problem: the executor compiles a table's CHECK constraints anew in every
 * statement, which costs a statement of one row more than the row does.
 * Solution: compiled ones are kept by their stored text.  The partitions of a
 * table share theirs.
 * An expression is kept only if all of its functions are the server's own: they
 * never change, and a user's may.  For what is not kept, and for what does not
 * hold, the executor has the word.
 */
#include "postgres.h"

#include "access/transam.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "constraint.h"

/* So many expressions are kept; then the oldest one goes. */
#define KEPT	16

typedef struct Check
{
	MemoryContext context;
	char	   *text;			/* as pg_constraint has it */
	ExprState  *state;			/* NULL: leave it to the executor */
} Check;

static Check kept[KEPT];
static int	oldest = 0;

static bool
is_users(Oid funcid, void *arg)
{
	return funcid >= FirstNormalObjectId;
}

/* Does the expression call a function, or hold a node, that is not the server's own? */
static bool
may_change(Node *node, void *arg)
{
	if (node == NULL)
		return false;
	if (check_functions_in_node(node, is_users, NULL) ||
		IsA(node, CoerceToDomain) || IsA(node, ArrayCoerceExpr))
		return true;
	return expression_tree_walker(node, may_change, arg);
}

static Check *
compile(const char *text)
{
	Check	   *check = &kept[oldest];
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "jobstate check",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);
	char	   *copy = pstrdup(text);
	Node	   *expr = stringToNode(text);
	ExprState  *state = NULL;

	if (!may_change(expr, NULL))
		state = ExecInitExpr(expression_planner((Expr *) expr), NULL);
	MemoryContextSwitchTo(before);

	/* it is whole: from here on nothing fails */
	if (check->context != NULL)
		MemoryContextDelete(check->context);
	MemoryContextSetParent(context, TopMemoryContext);
	check->context = context;
	check->text = copy;
	check->state = state;
	oldest = (oldest + 1) % KEPT;
	return check;
}

static ExprState *
compiled(const char *text)
{
	int			i;

	for (i = 0; i < KEPT; i++)
		if (kept[i].text != NULL && strcmp(kept[i].text, text) == 0)
			return kept[i].state;
	return compile(text)->state;
}

static bool
has_forbidden_null(TupleDesc desc, TupleTableSlot *slot)
{
	int			i;

	for (i = 0; i < desc->natts; i++)
		if (TupleDescAttr(desc, i)->attnotnull && slot_attisnull(slot, i + 1))
			return true;
	return false;
}

/* Where expressions are evaluated; made once. */
static ExprContext *
context_for(TupleTableSlot *slot)
{
	static ExprContext *econtext = NULL;

	if (econtext == NULL)
	{
		MemoryContext before = MemoryContextSwitchTo(TopMemoryContext);

		econtext = CreateStandaloneExprContext();
		MemoryContextSwitchTo(before);
	}
	ResetExprContext(econtext);
	econtext->ecxt_scantuple = slot;
	return econtext;
}

/* Do all constraints hold?  If not, the executor knows better, and what to say. */
bool
jobstate_constraints_hold(Relation rel, TupleTableSlot *slot)
{
	TupleConstr *constr = rel->rd_att->constr;
	bool		hold = true;
	int			i;

	if (constr == NULL)
		return true;
	if (jobstate_has_virtual_columns(constr))
		return false;
	if (constr->has_not_null && has_forbidden_null(rel->rd_att, slot))
		return false;
	for (i = 0; hold && i < constr->num_check; i++)
	{
		ExprState  *state = compiled(constr->check[i].ccbin);

		hold = state != NULL && ExecCheck(state, context_for(slot));
	}
	return hold;
}
