/*
 * src/compat.h
 *
 * What differs between the server versions that jobstate builds on (15 to 18),
 * in one place.
 */
#ifndef JOBSTATE_COMPAT_H
#define JOBSTATE_COMPAT_H

#include "access/tableam.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/guc.h"
#if PG_VERSION_NUM >= 170000
#include "utils/injection_point.h"
#endif
#include "utils/rel.h"
#include "utils/relcache.h"

/* 18 has only pg_noreturn, which stands in front */
#ifndef pg_attribute_noreturn
#define pg_attribute_noreturn()	__attribute__((noreturn))
#endif

#if PG_VERSION_NUM < 160000
#define jobstate_owns_table(relid, role)	pg_class_ownercheck(relid, role)
#else
#define jobstate_owns_table(relid, role) \
	object_ownercheck(RelationRelationId, relid, role)
#endif

#if PG_VERSION_NUM < 160000
#define jobstate_new_file(rel) \
	RelationSetNewRelfilenode(rel, (rel)->rd_rel->relpersistence)
#else
#define jobstate_new_file(rel) \
	RelationSetNewRelfilenumber(rel, (rel)->rd_rel->relpersistence)
#endif

#if PG_VERSION_NUM < 180000
typedef FormData_pg_attribute JobstateAttribute;
#define jobstate_attribute(desc, attno)	TupleDescAttr(desc, (attno) - 1)
#else
typedef CompactAttribute JobstateAttribute;
#define jobstate_attribute(desc, attno)	TupleDescCompactAttr(desc, (attno) - 1)
#endif

#if PG_VERSION_NUM < 170000
#define jobstate_reindex(relid, params)	reindex_relation(relid, 0, params)
#else
#define jobstate_reindex(relid, params)	reindex_relation(NULL, relid, 0, params)
#endif

#if PG_VERSION_NUM < 170000
#define jobstate_backend_number()	(MyProc->pgprocno)
#else
#define jobstate_backend_number()	((int) MyProcNumber)
#endif

#if PG_VERSION_NUM < 170000
#define jobstate_holds_lock(tag, mode)	LockHeldByMe(tag, mode)
#else
#define jobstate_holds_lock(tag, mode)	LockHeldByMe(tag, mode, false)
#endif

#if PG_VERSION_NUM < 170000
#define jobstate_restrict_search_path() \
	((void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, \
							  PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false))
#else
#define jobstate_restrict_search_path()	RestrictSearchPath()
#endif

#if PG_VERSION_NUM < 180000
#define jobstate_primary_key(rel)	RelationGetPrimaryKeyIndex(rel)
#else
#define jobstate_primary_key(rel)	RelationGetPrimaryKeyIndex(rel, false)
#endif

#if PG_VERSION_NUM < 180000
#define jobstate_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#else
#define jobstate_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#endif

#if PG_VERSION_NUM < 180000
#define jobstate_has_virtual_columns(constr)	false
#else
#define jobstate_has_virtual_columns(constr)	((constr)->has_generated_virtual)
#endif

/* Does the command compute the values of a column anew, for which no trigger fires? */
#if PG_VERSION_NUM < 170000
#define jobstate_alters_values(command)	((command)->subtype == AT_AlterColumnType)
#else
#define jobstate_alters_values(command) \
	((command)->subtype == AT_AlterColumnType || (command)->subtype == AT_SetExpression)
#endif

/* What table_tuple_update() says about indexes */
#if PG_VERSION_NUM < 160000
typedef bool JobstateIndexUpdate;
#define jobstate_wants_indexes(u)	(u)
#define jobstate_update_indexes(rri, slot, estate, u) \
	ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL)
#define jobstate_insert_indexes(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL)
#else
typedef TU_UpdateIndexes JobstateIndexUpdate;
#define jobstate_wants_indexes(u)	((u) != TU_None)
#define jobstate_update_indexes(rri, slot, estate, u) \
	ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL, (u) == TU_Summarizing)
#define jobstate_insert_indexes(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL, false)
#endif

#if PG_VERSION_NUM < 160000
#define jobstate_epq_init(epq, estate) \
	EvalPlanQualInit(epq, estate, NULL, NIL, -1)
#else
#define jobstate_epq_init(epq, estate) \
	EvalPlanQualInit(epq, estate, NULL, NIL, -1, NIL)
#endif

/*
 * An instant at which tests stop, fail or end a session; architecture.md has
 * them all.  Only servers that are built for it know of them.
 */
#if PG_VERSION_NUM < 170000 || !defined(USE_INJECTION_POINTS)
#define JOBSTATE_INSTANT(name)	((void) 0)
#elif PG_VERSION_NUM < 180000
#define JOBSTATE_INSTANT(name)	INJECTION_POINT("jobstate-" name)
#else
#define JOBSTATE_INSTANT(name)	INJECTION_POINT("jobstate-" name, NULL)
#endif

#endif							/* JOBSTATE_COMPAT_H */
