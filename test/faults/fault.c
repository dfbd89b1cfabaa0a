/*
 * test/faults/fault.c
 *
 * Faults at exact instants.  The extension is linked a second time, with its calls into the server led
 * through the wrappers in here (ld --wrap); each call is an instant.  fault(kind, n) arms: at the n-th
 * instant from then on memory runs out, an error is raised, or a request to cancel or to terminate has
 * come, or the process is killed.  fault_report() tells how many instants there were, and where it struck.
 *
 * A wrapper hands on ten arguments, however many there are: what is more lies in registers or on the
 * stack and is nobody's.
 */
#include "postgres.h"

#include <signal.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(fault);
PG_FUNCTION_INFO_V1(fault_report);

#define MEMORY		'm'
#define FAILURE		'f'
#define CANCEL		'c'
#define TERMINATE	't'
#define KILL		'k'

static char armed = 0;			/* a kind, or 0 */
static int	at = 0;				/* which instant */
static int	instants = 0;		/* so far */
static const char *struck = NULL;	/* the call before which it struck */

static void
strike(const char *name)
{
	char		kind = armed;

	armed = 0;
	struck = name;
	switch (kind)
	{
		case MEMORY:
			ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY),
							errmsg("out of memory"),
							errdetail("At instant %d, in %s().", at, name)));
			break;
		case FAILURE:
			ereport(ERROR, (errcode(ERRCODE_IO_ERROR),
							errmsg("a call failed"),
							errdetail("At instant %d, in %s().", at, name)));
			break;
		case CANCEL:
			QueryCancelPending = true;
			InterruptPending = true;
			break;
		case TERMINATE:
			ProcDiePending = true;
			InterruptPending = true;
			break;
		case KILL:
			kill(MyProcPid, SIGKILL);
			break;
	}
}

/*
 * Memory may run out wherever it is asked for, also while interrupts are held off, as they are in the
 * end of a transaction.  Nothing else fails there.
 */
static void
instant(const char *name, bool asks_for_memory)
{
	if (armed == 0 || CritSectionCount > 0 ||
		(armed == MEMORY ? !asks_for_memory : InterruptHoldoffCount > 0))
		return;
	if (++instants == at)
		strike(name);
}

#define PARAMETERS	Datum a, Datum b, Datum c, Datum d, Datum e, \
					Datum f, Datum g, Datum h, Datum i, Datum j
#define WRAP(name, asks_for_memory) \
	extern Datum __real_##name(PARAMETERS); \
	extern Datum __wrap_##name(PARAMETERS); \
	Datum \
	__wrap_##name(PARAMETERS) \
	{ \
		instant(#name, asks_for_memory); \
		return __real_##name(a, b, c, d, e, f, g, h, i, j); \
	}

/* Made of what the extension calls: one WRAP for each */
#include "wrapped.h"

/* fault(kind "char", n integer) returns void; n = 0 only counts */
Datum
fault(PG_FUNCTION_ARGS)
{
	armed = PG_GETARG_CHAR(0);
	at = PG_GETARG_INT32(1);
	instants = 0;
	struck = NULL;
	PG_RETURN_VOID();
}

/* fault_report() returns text: instants so far, and the call; disarms */
Datum
fault_report(PG_FUNCTION_ARGS)
{
	char	   *report = psprintf("%d %s", instants, struck == NULL ? "" : struck);

	armed = 0;
	PG_RETURN_TEXT_P(cstring_to_text(report));
}
