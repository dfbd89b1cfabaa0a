/*
 * src/compat.h
 *
 * What differs between the server versions that jobstate builds on (15 to 18),
 * in one place.
 */
#ifndef JOBSTATE_COMPAT_H
#define JOBSTATE_COMPAT_H

#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "storage/proc.h"
#include "utils/acl.h"
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

#endif							/* JOBSTATE_COMPAT_H */
