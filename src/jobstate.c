/*
 * src/jobstate.c
 *
 * The module's entry.
 */
#include "postgres.h"

#include "fmgr.h"

#include "attachment.h"
#include "catalog.h"
#include "derive.h"
#include "flush.h"
#include "maintain.h"
#include "jobtable.h"
#include "lane.h"
#include "tally.h"
#include "touched.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

/*
 * Transaction callbacks run in reverse order of their registration: derive
 * is asked before the flush, and the flush before the tally lets go.
 */
void
_PG_init(void)
{
	jobstate_catalog_init();
	jobstate_attachment_init();
	jobstate_tally_init();
	jobstate_touched_init();
	jobstate_flush_init();
	jobstate_derive_init();
	jobstate_maintain_init();
	jobstate_jobs_init();
	jobstate_lane_init();
}
