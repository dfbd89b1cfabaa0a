/*
 * src/catalog.h
 *
 * The extension's own relations: their OIDs, and how to act as their owner.
 */
#ifndef JOBSTATE_CATALOG_H
#define JOBSTATE_CATALOG_H

#include "access/genam.h"
#include "executor/spi.h"

#include "utils/snapshot.h"

#define JOBSTATE_SCHEMA		"jobstate"
#define JOBSTATE_SEGMENTS	8

typedef struct JobstateCatalog
{
	Oid			schema;
	Oid			owner;			/* owns the log; not always the extension's */

	Oid			state;
	Oid			state_pkey;
	Oid			transition;
	Oid			transition_pkey;
	Oid			attachment;
	Oid			attachment_pkey;
	Oid			rule_set;
	Oid			rule_set_pkey;
	Oid			rule;
	Oid			rule_pkey;
	Oid			derivation;
	Oid			derivation_pkey;
	Oid			derivation_child;

	Oid			segment[JOBSTATE_SEGMENTS];
	Oid			recent;
	Oid			settled[2];
	Oid			settled_key[2];
} JobstateCatalog;

/* Who we were before jobstate_become() */
typedef struct JobstateRole
{
	Oid			userid;
	int			sec_context;
	int			guc_level;
} JobstateRole;

extern void jobstate_catalog_init(void);
extern const JobstateCatalog *jobstate_catalog(void);
extern bool jobstate_catalog_exists(void);
extern uint64 jobstate_catalog_generation(void);
extern void jobstate_catalog_changed(void);

extern Oid	jobstate_owner_of(Oid relid);
extern JobstateRole jobstate_become(Oid userid);
extern void jobstate_return(JobstateRole role);

extern void jobstate_spi_connect(void);
extern void jobstate_spi_finish(void);
extern SysScanDesc jobstate_catalog_scan(Relation rel, Oid index, const char *name,
										 ScanKey key);
extern void jobstate_catalog_write(const char *sql, int n, Oid *types,
								   Datum *values, const char *nulls, int expected);
extern SPIPlanPtr jobstate_spi_plan(SPIPlanPtr *kept, const char *sql, int n,
									Oid *types);
extern Datum jobstate_spi_value(uint64 row, int column, bool *isnull);

#endif							/* JOBSTATE_CATALOG_H */
