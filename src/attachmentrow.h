/*
 * src/attachmentrow.h
 *
 * The rows of jobstate.attachment.
 */
#ifndef JOBSTATE_ATTACHMENTROW_H
#define JOBSTATE_ATTACHMENTROW_H

#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/snapshot.h"

typedef struct JobstateAttachmentRow
{
	char	   *machine;
	NameData	state_column;
	ArrayType  *group_by;
	int64		epoch;
	bool		own_write;		/* by this transaction */
} JobstateAttachmentRow;

extern bool jobstate_attachment_row(Oid target, JobstateAttachmentRow *row);
extern bool jobstate_attachment_is_sound(Oid target);
extern List *jobstate_attachment_targets(void);
extern int64 *jobstate_attachment_epochs(Snapshot snapshot, int *n);

extern int64 jobstate_attachment_new_epoch(void);
extern int64 jobstate_attachment_set_epoch(Oid target);

#endif							/* JOBSTATE_ATTACHMENTROW_H */
