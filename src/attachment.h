/*
 * src/attachment.h
 *
 * From a relation to what is known of it as a watched table, cached.
 */
#ifndef JOBSTATE_ATTACHMENT_H
#define JOBSTATE_ATTACHMENT_H

#include "executor/tuptable.h"
#include "utils/array.h"

#include "derivation.h"
#include "key.h"
#include "machine.h"

typedef enum JobstateStateKind
{
	JOBSTATE_STATE_INT2,
	JOBSTATE_STATE_INT4,
	JOBSTATE_STATE_TEXT,
	JOBSTATE_STATE_ENUM
} JobstateStateKind;

/* A watched table.  Never changes once made; a newer one replaces it. */
typedef struct JobstateAttachment
{
	Oid			target;
	int64		epoch;
	JobstateMachine *machine;
	NameData	state_column;
	Oid			state_type;
	JobstateStateKind state_kind;
	Oid		   *state_enum;		/* by state index: the label's OID, or 0 */
	JobstateKeySpec key;
	List	   *sources;		/* of JobstateDerivation: its state follows from these */
	List	   *links;			/* likewise: what follows from its rows */
	JobstateKeySpec *row_key;	/* its primary key where its state is derived */
	List	   *derived;		/* the sources, ready for derive.c */
	MemoryContext context;
	bool		outdated;
} JobstateAttachment;

/* A relation whose rows fire the trigger: the table or one of its partitions */
typedef struct JobstateWatched
{
	Oid			relid;			/* hash key */
	bool		outdated;
	uint64		generation;		/* of the catalogue, when this was made */
	JobstateAttachment *attachment;
	AttrNumber	state_attno;
	AttrNumber	group_attno[JOBSTATE_MAX_GROUP];
	List	   *links;			/* of JobstateLink */
	AttrNumber	row_attno[JOBSTATE_MAX_GROUP];	/* of the row_key */
} JobstateWatched;

/* What one row says */
typedef struct JobstateFact
{
	int			state;			/* index, or -1 */
	JobstateKeyValues key;
} JobstateFact;

extern void jobstate_attachment_init(void);
extern void jobstate_attachment_at_end(void);

extern JobstateAttachment *jobstate_attachment(Oid target);
extern JobstateAttachment *jobstate_attachment_if_any(Oid target);
extern JobstateWatched *jobstate_watched(Oid relid);
extern Oid	jobstate_attached_root(Oid relid);
extern JobstateAttachment *jobstate_attachment_build(Oid target,
													 const char *machine,
													 const char *state_column,
													 ArrayType *group_by,
													 int64 epoch);

extern int	jobstate_state_index(JobstateAttachment *attachment, Datum value,
								 bool isnull);
extern void jobstate_fact_read(JobstateWatched *watched, TupleTableSlot *slot,
							   JobstateFact *fact);

#endif							/* JOBSTATE_ATTACHMENT_H */
