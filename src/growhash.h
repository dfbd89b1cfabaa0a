/*
 * src/growhash.h
 *
 * The memory of a simplehash table that outlives an error.
 *
 * Before version 17 a table that grows has its new size before it has the memory.
 * Where that is refused the server's own end with their query; ours, after the
 * rollback of a savepoint, would be read and written beyond its end.  So it gets
 * its old size back before the error is raised, and tries to grow once more.
 *
 * To be included behind lib/simplehash.h, with SH_USE_NONDEFAULT_ALLOCATOR.
 */
#ifndef JOBSTATE_GROWHASH_H
#define JOBSTATE_GROWHASH_H

#include "utils/memutils.h"

#define JOBSTATE_GROWHASH(prefix) \
static inline void * \
prefix##_allocate(prefix##_hash *table, Size size) \
{ \
	void	   *data = MemoryContextAllocExtended(table->ctx, size, \
												 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO | MCXT_ALLOC_NO_OOM); \
	if (data == NULL) \
	{ \
		if (PG_VERSION_NUM < 170000 && table->data != NULL) \
		{ \
			table->size /= 2; \
			table->sizemask = (uint32) (table->size - 1); \
			table->grow_threshold = 0; \
		} \
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"), \
						errdetail("Failed on request of size %zu in memory context \"%s\".", \
								  size, table->ctx->name))); \
	} \
	return data; \
} \
static inline void \
prefix##_free(prefix##_hash *table, void *data) \
{ \
	pfree(data); \
}

#endif							/* JOBSTATE_GROWHASH_H */
