/*
 * src/attach.h
 *
 * Putting a table under watch, and keeping its counters its own.
 */
#ifndef JOBSTATE_ATTACH_H
#define JOBSTATE_ATTACH_H

#include "attachment.h"

/* Their names tell our triggers from others that use the same functions */
#define JOBSTATE_ROW_TRIGGER		"jobstate_watch"
#define JOBSTATE_TRUNCATE_TRIGGER	"jobstate_truncate"

extern void jobstate_require_owner(Oid relid);
extern void jobstate_attach_partition(Oid relid);
extern void jobstate_detach_partition(Oid relid);
extern void jobstate_attach_mark_counted(JobstateAttachment *attachment);
extern bool jobstate_attach_wants_recount(Oid target);
extern int64 jobstate_attach_recount(Oid target);

#endif							/* JOBSTATE_ATTACH_H */
