/*
 * src/fold.h
 *
 * From the counter log to the counter base.
 */
#ifndef JOBSTATE_FOLD_H
#define JOBSTATE_FOLD_H

#include "log.h"

/* What the automatic fold takes: segments that are at least half full */
#define JOBSTATE_FOLD_WORTH		(JOBSTATE_SEGMENT_FULL / 2)

typedef struct JobstateFoldResult
{
	int64		rows;			/* log rows folded */
	bool		busy;			/* somebody else folds */
	int			missed;			/* segments that are worth another pass */
} JobstateFoldResult;

extern JobstateFoldResult jobstate_fold(BlockNumber worth);
extern bool jobstate_settle(void);

#endif							/* JOBSTATE_FOLD_H */
