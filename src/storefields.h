/*
 * src/storefields.h
 *
 * What the fields of a record of the store may look like.
 */
#ifndef JOBSTATE_STOREFIELDS_H
#define JOBSTATE_STOREFIELDS_H

#include "utils/jsonb.h"

extern void jobstate_store_check_fields(Jsonb *fields);

#endif							/* JOBSTATE_STOREFIELDS_H */
