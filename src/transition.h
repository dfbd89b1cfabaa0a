/*
 * src/transition.h
 *
 * States in queries that are written for a table.
 */
#ifndef JOBSTATE_TRANSITION_H
#define JOBSTATE_TRANSITION_H

#include "executor/spi.h"

#include "attachment.h"
#include "recount.h"

extern SPIPlanPtr jobstate_kept_plan(const char *sql, JobstateParams *params);
extern char *jobstate_state_literal(JobstateAttachment *attachment, int state);
extern char *jobstate_state_condition(JobstateAttachment *attachment,
									  Bitmapset *states);

#endif							/* JOBSTATE_TRANSITION_H */
