/*
 * src/recount.h
 *
 * Counting a table's rows themselves.
 */
#ifndef JOBSTATE_RECOUNT_H
#define JOBSTATE_RECOUNT_H

#include "lib/stringinfo.h"
#include "utils/snapshot.h"

#include "sums.h"

/* Which groups: those whose given columns have these values; NULL = all */
typedef struct JobstateFilter
{
	uint32		given;			/* bit mask of columns */
	JobstateKeyValues key;
} JobstateFilter;

/* Parameters of a query that is being written */
typedef struct JobstateParams
{
	int			n;
	Oid			type[JOBSTATE_MAX_GROUP + 4];
	Datum		value[JOBSTATE_MAX_GROUP + 4];
	char		null[JOBSTATE_MAX_GROUP + 4];
} JobstateParams;

extern int	jobstate_param(JobstateParams *params, Oid type, Datum value);
extern void jobstate_where_group(StringInfo sql, JobstateAttachment *attachment,
								 JobstateFilter *filter, JobstateParams *params);
extern char *jobstate_table_name(Oid relid);
extern char *jobstate_table_rows(Oid relid);

extern int64 jobstate_recount(JobstateAttachment *attachment, Oid relid,
							  JobstateFilter *filter, Snapshot snapshot,
							  JobstateSums *sums);
extern bool jobstate_was_rewritten(Oid relid, Snapshot snapshot);
extern bool jobstate_file_is_newer(Relation rel, Snapshot snapshot);

#endif							/* JOBSTATE_RECOUNT_H */
