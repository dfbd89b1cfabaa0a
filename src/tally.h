/*
 * src/tally.h
 *
 * What this transaction has changed, per group and state.
 */
#ifndef JOBSTATE_TALLY_H
#define JOBSTATE_TALLY_H

#include "attachment.h"
#include "delta.h"
#include "keytext.h"

/* One touched key: about 230 bytes with its place in the hash */
typedef struct JobstateTally
{
	/* unchanging */
	JobstateAttachment *attachment;
	uint32		hash;
	text	   *text;			/* the key as the log stores it */
	uint64		prefix;			/* of it, as a number of the same order */
	JobstateKeyValues key;

	/* mutable */
	JobstateDeltas deltas;
} JobstateTally;

typedef struct JobstateTallySet JobstateTallySet;

extern void jobstate_tally_init(void);

/* of the transaction */
extern void jobstate_tally_add(JobstateAttachment *attachment,
							   JobstateFact *fact, int64 n);
extern void jobstate_tally_move(JobstateAttachment *attachment,
								JobstateFact *from, JobstateFact *to);
extern JobstateTallySet *jobstate_tally_pending(void);
extern void jobstate_tally_forget(void);
extern void jobstate_tally_truncated(JobstateAttachment *attachment);
extern bool jobstate_tally_was_truncated(JobstateAttachment *attachment);

/* of any set */
extern JobstateTallySet *jobstate_tally_set_create(MemoryContext context);
extern JobstateTally *jobstate_tally_set_find(JobstateTallySet *set,
											  JobstateAttachment *attachment,
											  JobstateKeyValues *key);
extern int	jobstate_tally_set_list(JobstateTallySet *set,
									JobstateTally ***list);

#endif							/* JOBSTATE_TALLY_H */
