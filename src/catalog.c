/*
 * src/catalog.c
 *
 * The extension's own relations: their OIDs, and how to act as their owner.
 *
 * OIDs are looked up by name once and forgotten when the attachment table is
 * invalidated, which happens when the extension is dropped and, by
 * jobstate_catalog_changed(), whenever its contents change.  The callback only
 * counts a generation up: whoever keeps something compiled compares numbers at
 * its next use, where an error halfway is harmless.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "replication/logicalworker.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "error.h"

PG_FUNCTION_INFO_V1(jobstate_catalog_trigger);
PG_FUNCTION_INFO_V1(jobstate_keep_own);

static JobstateCatalog catalog;
static bool catalog_valid = false;
static uint64 generation = 1;

static void
AtRelcacheInval_catalog(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == catalog.attachment)
	{
		catalog_valid = false;
		generation++;
	}
}

void
jobstate_catalog_init(void)
{
	CacheRegisterRelcacheCallback(AtRelcacheInval_catalog, (Datum) 0);
}

Oid
jobstate_owner_of(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		jobstate_error_no_table(relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

static Oid
find(Oid schema, const char *name)
{
	Oid			relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		elog(ERROR, "relation \"%s.%s\" is missing", JOBSTATE_SCHEMA, name);
	return relid;
}

/*
 * The relations, valid until the next invalidation is accepted: use them at
 * once, keep no pointer across anything that takes a lock.
 */
const JobstateCatalog *
jobstate_catalog(void)
{
	JobstateCatalog found;
	int			i;

	if (catalog_valid)
		return &catalog;

	found.schema = get_namespace_oid(JOBSTATE_SCHEMA, true);
	if (!OidIsValid(found.schema))
		jobstate_error_no_extension();

	found.state = find(found.schema, "state");
	found.state_pkey = find(found.schema, "state_pkey");
	found.transition = find(found.schema, "transition");
	found.transition_pkey = find(found.schema, "transition_pkey");
	found.attachment = find(found.schema, "attachment");
	found.attachment_pkey = find(found.schema, "attachment_pkey");
	found.rule_set = find(found.schema, "rule_set");
	found.rule_set_pkey = find(found.schema, "rule_set_pkey");
	found.rule = find(found.schema, "rule");
	found.rule_pkey = find(found.schema, "rule_pkey");
	found.derivation = find(found.schema, "derivation");
	found.derivation_pkey = find(found.schema, "derivation_pkey");
	found.derivation_child = find(found.schema, "derivation_child");
	for (i = 0; i < JOBSTATE_SEGMENTS; i++)
		found.segment[i] = find(found.schema, psprintf("segment_%d", i));
	found.recent = find(found.schema, "base_recent");
	for (i = 0; i < 2; i++)
	{
		found.settled[i] = find(found.schema, psprintf("base_settled_%d", i));
		found.settled_key[i] = find(found.schema,
									psprintf("base_settled_%d_key", i));
	}
	found.owner = jobstate_owner_of(found.attachment);

	catalog = found;
	catalog_valid = true;
	return &catalog;
}

/* Is the extension (still) there? */
bool
jobstate_catalog_exists(void)
{
	return catalog_valid || OidIsValid(get_namespace_oid(JOBSTATE_SCHEMA, true));
}

/* Counts up whenever something compiled from the catalogue may be outdated. */
uint64
jobstate_catalog_generation(void)
{
	return generation;
}

/* Makes every backend forget what it compiled, once this commits. */
void
jobstate_catalog_changed(void)
{
	CacheInvalidateRelcacheByRelid(jobstate_catalog()->attachment);
}

/*
 * Statement trigger on the catalogue tables, so that a restore or an operator
 * who writes there by hand is noticed like define_machine() and attach() are.
 */
Datum
jobstate_catalog_trigger(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		jobstate_error_trigger_protocol("catalog_changed");
	jobstate_catalog_changed();
	return PointerGetDatum(NULL);
}

/*
 * Row trigger on the catalogue tables, for replicas.  A publication FOR ALL TABLES
 * carries them; but tables have other OIDs and other epochs in each database, and
 * rows that are applied fire no triggers of statements, so nobody would notice.
 * What triggers of applied rows write is this database's own again.
 */
Datum
jobstate_keep_own(PG_FUNCTION_ARGS)
{
	TriggerData *event = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(event->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(event->tg_event))
		jobstate_error_trigger_protocol("keep_own");
	if (IsLogicalWorker() &&
		DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0)) == 1)
		return PointerGetDatum(NULL);
	return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(event->tg_event) ?
						   event->tg_newtuple : event->tg_trigtuple);
}

/*
 * Act as another role in this function only: as the extension's owner where
 * its own tables are written, as a table's owner where functions of its column
 * types run, which are the table owner's code and not the caller's.  Row
 * security is not applied: what is counted is the table, not a view of it.
 * That code must not find what the caller has put in the way, so the search_path
 * is the server's own, as it is for VACUUM and REINDEX from version 17 on.
 */
JobstateRole
jobstate_become(Oid userid)
{
	JobstateRole before;

	before.guc_level = NewGUCNestLevel();
	jobstate_restrict_search_path();
	GetUserIdAndSecContext(&before.userid, &before.sec_context);
	SetUserIdAndSecContext(userid, before.sec_context |
						   SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION |
						   SECURITY_NOFORCE_RLS);
	return before;
}

/* After an error the transaction's abort does this. */
void
jobstate_return(JobstateRole role)
{
	AtEOXact_GUC(false, role.guc_level);
	SetUserIdAndSecContext(role.userid, role.sec_context);
}

void
jobstate_spi_connect(void)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

void
jobstate_spi_finish(void)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
}

/* A scan for the rows whose first column is this name, by an index that begins with it */
SysScanDesc
jobstate_catalog_scan(Relation rel, Oid index, const char *name, ScanKey key)
{
	ScanKeyInit(key, 1, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(name));
	key->sk_collation = DEFAULT_COLLATION_OID;
	return systable_beginscan(rel, index, true, NULL, 1, key);
}

/* Writes the catalogue by one statement, as its owner; what it did is seen at once. */
void
jobstate_catalog_write(const char *sql, int n, Oid *types, Datum *values,
					   const char *nulls, int expected)
{
	JobstateRole role = jobstate_become(jobstate_catalog()->owner);

	jobstate_spi_connect();
	if (SPI_execute_with_args(sql, n, types, values, nulls, false, 0) != expected)
		elog(ERROR, "could not execute \"%s\"", sql);
	jobstate_spi_finish();
	jobstate_return(role);
	CommandCounterIncrement();
}

/* A query's plan, made once and kept for the session. */
SPIPlanPtr
jobstate_spi_plan(SPIPlanPtr *kept, const char *sql, int n, Oid *types)
{
	if (*kept == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(sql, n, types);

		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed for \"%s\"", sql);
		SPI_keepplan(plan);
		*kept = plan;
	}
	return *kept;
}

/* A value of the last query's result; columns count from 1. */
Datum
jobstate_spi_value(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}
