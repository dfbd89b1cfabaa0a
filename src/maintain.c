/*
 * src/maintain.c
 *
 * The fold starts itself: a flush that finds its segment full starts a dynamic
 * background worker, which needs no preloading.  It stays as long as segments
 * become full, and goes away after a second in which none did.
 *
 * A worker that is there holds a lock that tells so, so nobody starts a second
 * one.  Else the backend that began a page beyond the threshold asks; at most
 * once in a second each.  A worker that cannot be started is not missed: the
 * next full segment asks again, and CALL jobstate.maintain() folds as well.
 *
 * Problem: DROP DATABASE and CREATE DATABASE ... TEMPLATE wait five seconds for
 * other processes in the database, and then fail.
 * Solution: nobody writes there any more when they begin to wait, so the worker
 * finds nothing to do and is gone in time.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "attach.h"
#include "attachmentrow.h"
#include "catalog.h"
#include "compat.h"
#include "counts.h"
#include "error.h"
#include "family.h"
#include "fold.h"
#include "maintain.h"

PG_FUNCTION_INFO_V1(jobstate_maintain);

PGDLLEXPORT void jobstate_worker_main(Datum main_arg);

/* So often the worker looks whether a segment is full */
#define NAP_MS		50

/* It leaves when it found nothing to do so many times */
#define IDLE_NAPS	20

/* And after so many in any case, so that what it has cached goes with it */
#define MOST_NAPS	1200

/* And so often it looks after the families */
#define FAMILY_NAPS	20

/* So many passes at most, of a fold or of one step of a family */
#define ROUNDS		50

/* A family's maintenance has no more of them */
#define STEPS		20

/* SQL has 1 and 2 */
#define WORKER_LOCK_CLASS	74

/* How long maintain() waits for writers of a table that it counts */
#define RECOUNT_PATIENCE	"1s"

static bool auto_maintain = true;

void
jobstate_maintain_init(void)
{
	DefineCustomBoolVariable("jobstate.auto_maintain",
							 "Starts a background worker that folds the counter log when a segment is full.",
							 "Off: CALL jobstate.maintain() must be run regularly.",
							 &auto_maintain, true, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	MarkGUCPrefixReserved("jobstate");
}

/*
 * The lock of a database's worker.  It is of the advisory kind because only
 * such a lock goes with its process, and of a class that SQL cannot reach.
 */
static LOCKTAG
worker_tag(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, jobstate_catalog()->recent,
						 WORKER_LOCK_CLASS);
	return tag;
}

static bool
worker_is_there(void)
{
	LOCKTAG		tag = worker_tag();

	if (LockAcquire(&tag, ShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, ShareLock, false);
	return false;
}

/* Asks for a fold, without waiting for it. */
void
jobstate_maintain_wanted(void)
{
	static TimestampTz asked = 0;
	TimestampTz now = GetCurrentTimestamp();
	BackgroundWorker worker = {0};

	if (!auto_maintain || !TimestampDifferenceExceeds(asked, now, 1000) ||
		worker_is_there())
		return;
	asked = now;
	strlcpy(worker.bgw_name, "jobstate maintain", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "jobstate maintain", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "jobstate", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "jobstate_worker_main", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(MyDatabaseId);
	(void) RegisterDynamicBackgroundWorker(&worker, NULL);
}

static void
begin_step(const char *what)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, what);
}

static void
end_step(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* One pass over the segments of this size.  Returns whether any was folded. */
static bool
fold_once(BlockNumber worth)
{
	JobstateFoldResult result = {0};

	begin_step("folding the counter log");
	if (jobstate_catalog_exists())
		result = jobstate_fold(worth);
	end_step();
	return result.rows > 0;
}

static void
settle_all(void)
{
	bool		done;

	do
	{
		begin_step("settling the counter base");
		done = jobstate_catalog_exists() && jobstate_settle();
		end_step();
	} while (done);
}

/* The owners of attached tables, in a context that outlives transactions. */
static List *
owners_of_tables(MemoryContext context)
{
	List	   *targets = jobstate_attachment_targets();
	List	   *owners = NIL;
	MemoryContext before = MemoryContextSwitchTo(context);
	ListCell   *cell;

	foreach(cell, targets)
		if (get_rel_name(lfirst_oid(cell)) != NULL)
			owners = list_append_unique_oid(owners, jobstate_owner_of(lfirst_oid(cell)));
	MemoryContextSwitchTo(before);
	return owners;
}

/* One step of a family, with the rights of its tables' owner */
static JobstateFamilyStep
maintain_step_as(Oid owner, const char *hook, int step)
{
	JobstateRole role = jobstate_become(owner);
	JobstateFamilyStep answer = jobstate_family_maintain(hook, step);

	jobstate_return(role);
	return answer;
}

static List *
hooks_of(Oid owner)
{
	JobstateRole role = jobstate_become(owner);
	List	   *hooks = jobstate_family_hooks();

	jobstate_return(role);
	return hooks;
}

/* Where in the families' maintenance we are */
typedef struct Walk
{
	int			hook;
	int			step;
	int			round;
} Walk;

static void
walk_on(Walk *walk, JobstateFamilyStep answer, bool once)
{
	if (answer == JOBSTATE_FAMILY_MORE && !once && ++walk->round < ROUNDS)
		return;
	walk->round = 0;
	if (answer == JOBSTATE_FAMILY_DONE || ++walk->step == STEPS)
	{
		walk->hook++;
		walk->step = 0;
	}
}

/* What the families want of an owner, with the owner's rights */
static void
maintain_families_as(Oid owner)
{
	Walk		walk = {0};
	bool		done = false;

	while (!done)
	{
		List	   *hooks;

		begin_step("maintaining the families");
		hooks = hooks_of(owner);
		done = walk.hook >= list_length(hooks);
		if (!done)
			walk_on(&walk, maintain_step_as(owner, list_nth(hooks, walk.hook), walk.step), false);
		end_step();
		CHECK_FOR_INTERRUPTS();
	}
}

static void
maintain_all_families(void)
{
	List	   *owners = NIL;
	ListCell   *cell;

	begin_step("looking for tables");
	if (jobstate_catalog_exists())
		owners = owners_of_tables(TopMemoryContext);
	end_step();
	foreach(cell, owners)
		maintain_families_as(lfirst_oid(cell));
	list_free(owners);
}

/* Becomes the database's worker, if there is none; until it exits. */
static bool
enter(void)
{
	bool		entered = false;
	LOCKTAG		tag;

	begin_step("folding the counter log");
	if (jobstate_catalog_exists())
	{
		tag = worker_tag();
		entered = LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
	}
	end_step();
	return entered;
}

static void
nap(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 NAP_MS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * The worker.  What it finds in use it finds again after the next nap.  Before
 * it leaves it takes what is worth it though not full.
 */
void
jobstate_worker_main(Datum main_arg)
{
	int			naps;
	int			idle = 0;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(main_arg),
											  InvalidOid, 0);
	/* what a database's sessions are to begin with does not bind the worker */
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	if (!enter())
		return;
	for (naps = 0; naps < MOST_NAPS && idle < IDLE_NAPS; naps++)
	{
		if (fold_once(JOBSTATE_SEGMENT_FULL))
		{
			settle_all();
			idle = 0;
		}
		else
			idle++;
		if (naps % FAMILY_NAPS == 0)
			maintain_all_families();
		nap();
	}
	(void) fold_once(JOBSTATE_FOLD_WORTH);
	settle_all();
}

/* The end of a step of maintain(), where the caller lets us commit. */
static void
end_call_step(bool atomic)
{
	JOBSTATE_INSTANT("maintain-step");
	if (atomic)
		return;
	SPI_commit();
	EnsurePortalSnapshotExists();
}

/* One table could not be counted; the others should be. */
static void
warn_uncounted(Oid target, ErrorData *error)
{
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("could not count relation \"%s\"", get_rel_name(target)),
			 errdetail("%s", error->message),
			 error->hint ? errhint("%s", error->hint) : 0));
}

/*
 * Counts one table in a subtransaction of its own.  Writers that have been at
 * work since before the epoch began are not waited for long.
 */
static void
recount_one(Oid target)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int			nest;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		nest = NewGUCNestLevel();
		(void) set_config_option("lock_timeout", RECOUNT_PATIENCE, PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		(void) jobstate_attach_recount(target);
		AtEOXact_GUC(true, nest);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		warn_uncounted(target, error);
	}
	PG_END_TRY();
}

/* Tables of the caller that nobody has counted yet */
static void
recount_uncounted(bool atomic)
{
	List	   *targets = jobstate_attachment_targets();
	ListCell   *cell;

	foreach(cell, targets)
	{
		Oid			target = lfirst_oid(cell);

		CHECK_FOR_INTERRUPTS();
		if (jobstate_owns_table(target, GetUserId()) &&
			jobstate_attach_wants_recount(target))
		{
			recount_one(target);
			end_call_step(atomic);
		}
	}
}

static void
maintain_families_of(Oid owner, bool atomic)
{
	List	   *hooks = hooks_of(owner);
	Walk		walk = {0};

	while (walk.hook < list_length(hooks))
	{
		CHECK_FOR_INTERRUPTS();
		walk_on(&walk, maintain_step_as(owner, list_nth(hooks, walk.hook), walk.step), atomic);
		end_call_step(atomic);
	}
}

/*
 * What the families want of the roles that the caller may act as.  It runs as
 * each of them, like VACUUM and REINDEX do: what an owner has put on his tables
 * is not to run with the rights of a superuser who maintains the database.
 */
static void
maintain_families(bool atomic)
{
	ListCell   *cell;

	foreach(cell, owners_of_tables(CurrentMemoryContext))
		if (has_privs_of_role(GetUserId(), lfirst_oid(cell)))
			maintain_families_of(lfirst_oid(cell), atomic);
}

/*
 * CALL maintain(): what the worker does, counting what is uncounted, and what
 * the families want.  Each step is a transaction of its own, unless the caller
 * is in one.
 */
Datum
jobstate_maintain(PG_FUNCTION_ARGS)
{
	bool		atomic = fcinfo->context == NULL ||
		!IsA(fcinfo->context, CallContext) ||
		((CallContext *) fcinfo->context)->atomic;
	int			round;

	if (SPI_connect_ext(atomic ? 0 : SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PreventCommandIfReadOnly("maintain()");
	for (round = 0; round < ROUNDS; round++)
	{
		int64		rows = jobstate_fold(JOBSTATE_FOLD_WORTH).rows;

		end_call_step(atomic);
		if (atomic || rows == 0)
			break;
	}
	while (jobstate_settle() && !atomic)
		end_call_step(atomic);
	recount_uncounted(atomic);
	maintain_families(atomic);
	jobstate_spi_finish();
	PG_RETURN_VOID();
}
