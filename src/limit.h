/*
 * src/limit.h
 *
 * How many jobs of a queue may run at a time.
 */
#ifndef JOBSTATE_LIMIT_H
#define JOBSTATE_LIMIT_H

typedef struct JobstateLimits JobstateLimits;

extern JobstateLimits *jobstate_limits_read(text *queue);
extern bool jobstate_limits_full(JobstateLimits *limits);
extern bool jobstate_limits_allow(JobstateLimits *limits, Datum key, bool isnull);
extern void jobstate_limits_count(JobstateLimits *limits, Datum key, bool isnull);

#endif							/* JOBSTATE_LIMIT_H */
