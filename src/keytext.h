/*
 * src/keytext.h
 *
 * Group keys as text, as the log holds them, and as jsonb, as users see them.
 */
#ifndef JOBSTATE_KEYTEXT_H
#define JOBSTATE_KEYTEXT_H

#include "utils/jsonb.h"

#include "key.h"

#define JOBSTATE_MAX_KEY_BYTES	2000

extern int	jobstate_settings_begin(void);
extern void jobstate_settings_end(int nest);

extern text *jobstate_packed(char *stored, Size length);
extern uint64 jobstate_key_prefix(text *stored);
extern bool jobstate_key_same(text *a, text *b);
extern int	jobstate_key_compare(text *a, text *b);
extern text *jobstate_key_to_text(JobstateKeySpec *spec, JobstateKeyValues *key);
extern void jobstate_key_from_text(JobstateKeySpec *spec, text *stored,
								   JobstateKeyValues *key);
extern Jsonb *jobstate_key_to_jsonb(JobstateKeySpec *spec, text *stored);
extern uint32 jobstate_key_from_jsonb(JobstateKeySpec *spec, Jsonb *json,
									  Oid target, JobstateKeyValues *key);

#endif							/* JOBSTATE_KEYTEXT_H */
