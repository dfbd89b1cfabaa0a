/*
 * src/key.h
 *
 * Group keys: the values of an attachment's group columns.
 */
#ifndef JOBSTATE_KEY_H
#define JOBSTATE_KEY_H

#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"
#include "utils/typcache.h"

#define JOBSTATE_MAX_GROUP		8
#define JOBSTATE_MAX_KEY_BYTES	2000

typedef struct JobstateKeyColumn
{
	NameData	name;
	Oid			type;			/* the column's, maybe a domain */
	Oid			base_type;
	Oid			collation;
	int16		typlen;
	bool		typbyval;
	char		typalign;
	bool		is_enum;
	bool		by_number;		/* stored as the number that its datum is */
	bool		textual;		/* equal values have equal text */
	bool		settings;		/* its text depends on settings */
	bool		json_number;	/* its text is a JSON number */
	bool		json_boolean;
	TypeCacheEntry *typcache;	/* hash and equality; lives for ever */
	FmgrInfo	output;
	FmgrInfo	input;
	Oid			ioparam;
} JobstateKeyColumn;

typedef struct JobstateKeySpec
{
	int			ncolumns;
	bool		textual;		/* of every column */
	bool		settings;		/* of any column */
	bool		shown_by_settings;	/* so is what jsonb shows of one */
	JobstateKeyColumn column[JOBSTATE_MAX_GROUP];
} JobstateKeySpec;

typedef struct JobstateKeyValues
{
	Datum		value[JOBSTATE_MAX_GROUP];
	bool		isnull[JOBSTATE_MAX_GROUP];
} JobstateKeyValues;

extern void jobstate_require_stored(Relation rel, AttrNumber attnum);
extern void jobstate_key_column_init(JobstateKeyColumn *column, Relation rel,
									 const char *name);
extern void jobstate_key_spec_finish(JobstateKeySpec *spec);

extern uint32 jobstate_key_hash(JobstateKeySpec *spec, JobstateKeyValues *key);
extern bool jobstate_key_equal(JobstateKeySpec *spec, JobstateKeyValues *a,
							   JobstateKeyValues *b);
extern void jobstate_key_copy(JobstateKeySpec *spec, JobstateKeyValues *key);

extern int	jobstate_settings_begin(void);
extern void jobstate_settings_end(int nest);

extern ArrayType *jobstate_key_to_text(JobstateKeySpec *spec,
									   JobstateKeyValues *key);
extern void jobstate_key_from_text(JobstateKeySpec *spec, ArrayType *stored,
								   JobstateKeyValues *key);
extern Jsonb *jobstate_key_to_jsonb(JobstateKeySpec *spec, ArrayType *stored);
extern uint32 jobstate_key_from_jsonb(JobstateKeySpec *spec, Jsonb *json,
									  Oid target, JobstateKeyValues *key);

#endif							/* JOBSTATE_KEY_H */
