/*
 * src/flush.h
 *
 * The tally goes to the log, before commit and before prepare.
 */
#ifndef JOBSTATE_FLUSH_H
#define JOBSTATE_FLUSH_H

/* So many keys are kept in memory before some go to the log early */
#define JOBSTATE_SPILL_KEYS		65536

extern void jobstate_flush_init(void);
extern void jobstate_flush_early(void);

#endif							/* JOBSTATE_FLUSH_H */
