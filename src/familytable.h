/*
 * src/familytable.h
 *
 * A family's table as C opens it.
 */
#ifndef JOBSTATE_FAMILYTABLE_H
#define JOBSTATE_FAMILYTABLE_H

#include "storage/lockdefs.h"
#include "utils/relcache.h"

/* A column that C reads or writes */
typedef struct JobstateColumn
{
	const char *name;
	Oid			type;			/* its own, or that of its domain */
	AttrNumber	place;			/* where the family's install function puts it; 0: not known */
} JobstateColumn;

extern Relation jobstate_family_table_open(Oid relid, LOCKMODE lockmode);
extern Relation jobstate_slotted_table_open(Oid relid, LOCKMODE lockmode);
extern AttrNumber jobstate_family_column(Relation rel, const JobstateColumn *column);
extern Relation jobstate_family_key_open(Relation rel, AttrNumber attno, LOCKMODE lockmode);
extern Relation jobstate_family_index_open(Relation rel, Oid index, AttrNumber attno,
										   LOCKMODE lockmode);

#endif							/* JOBSTATE_FAMILYTABLE_H */
