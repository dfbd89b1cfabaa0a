/*
 * src/storemerge.h
 *
 * The fields of a record, merged with those that an update gives.
 */
#ifndef JOBSTATE_STOREMERGE_H
#define JOBSTATE_STOREMERGE_H

#include "utils/jsonb.h"
#include "utils/numeric.h"

/* What an update gives, besides fields to be taken over as they are */
typedef struct JobstateStoreGiven
{
	Jsonb	   *fields;
	int			nfields;		/* that are not null, status included */
	bool		has_id;
	JsonbValue *status;			/* NULL: none */
	int			state_id;		/* 0: none, or no such status */
	Numeric		percent;		/* NULL: none */
} JobstateStoreGiven;

extern void jobstate_store_read_given(JobstateStoreGiven *given, Jsonb *fields);
extern void jobstate_store_merge(Jsonb *fields, JobstateStoreGiven *given,
								 bool without_progress, int state_id,
								 Jsonb **merged, Jsonb **record);

#endif							/* JOBSTATE_STOREMERGE_H */
