/*
 * src/key.h
 *
 * Group keys: the values of an attachment's group columns.
 */
#ifndef JOBSTATE_KEY_H
#define JOBSTATE_KEY_H

#include "utils/relcache.h"
#include "utils/typcache.h"

#define JOBSTATE_MAX_GROUP		8

typedef struct JobstateKeyColumn
{
	NameData	name;
	Oid			type;			/* the column's, maybe a domain */
	Oid			base_type;
	Oid			collation;
	int16		typlen;
	bool		typbyval;
	char		typalign;
	bool		is_unsigned;	/* its number is an OID: also of an enum */
	bool		by_number;		/* compared and stored as the number that it is */
	bool		textual;		/* equal values have equal text */
	bool		settings;		/* its text depends on settings */
	bool		shown_by_settings;	/* only what users see does */
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
	bool		shown_by_settings;	/* of any column */
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

extern int64 jobstate_key_number(JobstateKeyColumn *column, Datum value);
extern uint32 jobstate_key_hash(JobstateKeySpec *spec, JobstateKeyValues *key);
extern bool jobstate_key_equal(JobstateKeySpec *spec, JobstateKeyValues *a,
							   JobstateKeyValues *b);
extern void jobstate_key_copy(JobstateKeySpec *spec, JobstateKeyValues *key);

#endif							/* JOBSTATE_KEY_H */
