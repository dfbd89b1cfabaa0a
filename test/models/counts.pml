/*
 * Flush, fold and counts: whoever reads the counters adds up what its snapshot
 * sees, while rows of the log move to the base under its feet.
 *
 * A writer changes one row of a watched table and appends one row, +1, to a
 * segment of the log.  Maintenance folds segments into base_recent, rewrites
 * that, moves it to the settled base, and rewrites the settled base into its
 * twin.  Readers count with a snapshot of any age.  Any transaction may end by
 * an abort, which is what a crash makes of it too.
 *
 * A snapshot is the set of transactions that have committed when it is taken.
 * A transaction is seen before it lets its locks go.  A table that is emptied
 * loses its rows for every snapshot, at the commit of who emptied it.
 *
 * docs/models.md says which C function each step is.
 */
#define WRITERS		2
#ifndef FOLDS
#define FOLDS		2
#endif
#define SEGMENTS	2

/* relations, in the order in which readers lock them */
#define SEGMENT		0
#define SETTLED		SEGMENTS
#define RECENT		(SEGMENTS + 2)
#define RELATIONS	(SEGMENTS + 3)
#define table(r)	base[(r) - SETTLED]

#define bit(x)		(1 << (x))
#define has(set, x)	((set >> (x)) & 1)
#define count(set)	(has(set, 0) + has(set, 1))
#define fold_xid(f)	(WRITERS + (f))

#define writers_of(set)	((set) & (bit(WRITERS) - 1))

byte committed;					/* transactions that a new snapshot sees */
byte log_rows[SEGMENTS];		/* writers whose row lies in the segment */

typedef Base
{
	byte sum[FOLDS];			/* the writers that a fold's row adds up */
	bool header[FOLDS];
};
Base base[3];					/* the two settled tables and base_recent */

byte holders[RELATIONS];		/* of ACCESS SHARE and ROW EXCLUSIVE */
bool exclusive[RELATIONS];		/* ACCESS EXCLUSIVE is held */
bool wanted[RELATIONS];			/* ... or waited for, and others queue behind */

inline share(rel)
{
	atomic { !exclusive[rel] && !wanted[rel] -> holders[rel]++ }
}

proctype Writer(byte me)
{
	byte s, tries;

	if
	:: me > 0 -> select(s : 0 .. SEGMENTS - 1)
	:: else						/* one is like another */
	fi;
	do
	:: tries < SEGMENTS ->		/* a segment that is free: nobody is waited for */
		atomic {
			if
			:: !exclusive[SEGMENT + s] -> holders[SEGMENT + s]++; break
			:: else -> s = (s + 1) % SEGMENTS; tries++
			fi
		}
	:: tries == SEGMENTS -> share(SEGMENT + s); break
	od;
	log_rows[s] = log_rows[s] | bit(me);
#ifdef BROKEN_UNLOCK_BEFORE_COMMIT
	holders[SEGMENT + s]--;
#endif
	if
	:: committed = committed | bit(me)
	:: skip						/* aborts */
	fi;
#ifndef BROKEN_UNLOCK_BEFORE_COMMIT
	holders[SEGMENT + s]--;
#endif
}

inline try_exclusive(rel)
{
	atomic {
		if
		:: holders[rel] == 0 && !exclusive[rel] -> exclusive[rel] = true; got = true
		:: else -> got = false
		fi
	}
}

/* Adds the rows of a table of the base that the fold sees. */
inline add_base(t)
{
	d_step {
		i = 0;
		do
		:: i < FOLDS ->
			if
			:: has(snapshot, fold_xid(i)) ->
				assert((sum & table(t).sum[i]) == 0);
				sum = sum | table(t).sum[i]
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0
	}
}

/* Which settled table is in use: the one with a header that is seen, or the first. */
inline find_settled()
{
	d_step {
		i = 0; from = 0;
		do
		:: i < FOLDS ->
			if
			:: table(SETTLED + 1).header[i] && has(snapshot, fold_xid(i)) -> from = 1
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0
	}
}

inline is_empty(t)
{
	d_step {
		i = 0; got = true;
		do
		:: i < FOLDS ->
			got = got && table(t).sum[i] == 0 && !table(t).header[i];
			i++
		:: else -> break
		od;
		i = 0
	}
}

/* At commit, a table that was emptied has only what the fold put there. */
inline forget_rows(t)
{
	i = 0;
	do
	:: i < FOLDS ->
		if
		:: i != f -> table(t).sum[i] = 0; table(t).header[i] = false
		:: else
		fi;
		i++
	:: else -> break
	od;
	i = 0
}

/* What lies under the fold's locks goes to the base. */
inline move_rows()
{
	r = 0;
	do
	:: r < SEGMENTS ->
		if
		:: has(mine, SEGMENT + r) ->
			assert((sum & log_rows[r] & snapshot) == 0);
			sum = sum | (log_rows[r] & snapshot)
		:: else
		fi;
		r++
	:: else -> break
	od;
	if
	:: has(mine, RECENT) -> add_base(RECENT)
	:: else
	fi;
	find_settled();
	if
	:: table(RECENT).sum[f] = sum
	:: has(mine, RECENT) -> table(SETTLED + from).sum[f] = sum	/* too many keys */
	fi;
#ifndef BROKEN_NO_HEADER
	table(RECENT).header[f] = true
#endif
}

inline fold_segments()
{
	n = 0; r = 0;
#ifdef BROKEN_SNAPSHOT_BEFORE_LOCKS
	snapshot = committed;
#endif
	do
	:: r < SEGMENTS && n < SEGMENTS - 1 ->
		if
		:: try_exclusive(SEGMENT + r);
			if
			:: got -> mine = mine | bit(SEGMENT + r); n++
			:: else
			fi
		:: skip					/* not worth it */
		fi;
		r++
	:: else -> break
	od;
	if
	:: try_exclusive(RECENT);
		if
		:: got -> mine = mine | bit(RECENT)
		:: else
		fi
	:: skip						/* base_recent has room */
	fi;
#ifndef BROKEN_SNAPSHOT_BEFORE_LOCKS
	snapshot = committed;
#endif
	atomic { move_rows() }		/* under locks: nobody else looks or writes here */
}

/* The settled base into its twin; or the twin is cleared of an aborted rewrite. */
inline settle()
{
	atomic { snapshot = committed; find_settled() }
	is_empty(SETTLED + 1 - from);
	if
	:: !got ->
		try_exclusive(SETTLED + 1 - from);
		if
		:: got -> mine = bit(SETTLED + 1 - from)
		:: else
		fi
	:: got ->
		atomic {
			add_base(SETTLED + from);
			table(SETTLED + 1 - from).sum[f] = sum;
			table(SETTLED + 1 - from).header[f] = true;
			table(RECENT).header[f] = true;
			wanted[SETTLED + from] = true
		}
		atomic {
#ifndef BROKEN_SETTLE_DOES_NOT_WAIT
			holders[SETTLED + from] == 0 ->
#endif
			wanted[SETTLED + from] = false;
			exclusive[SETTLED + from] = true
		}
		mine = bit(SETTLED + from)
	fi
}

inline let_go()
{
	r = 0;
	do
	:: r < RELATIONS ->
		if
		:: has(mine, r) -> exclusive[r] = false
		:: else
		fi;
		r++
	:: else -> break
	od;
	sum = 0; mine = 0; snapshot = 0; r = 0; n = 0; from = 0; got = false
}

/* What was emptied is empty with the commit; after that the locks go. */
inline end_fold()
{
	if
	:: true ->
		d_step {
			r = 0;
			do
			:: r < RELATIONS ->
				if
				:: has(mine, r) && r < SETTLED -> log_rows[r - SEGMENT] = 0
				:: has(mine, r) && r >= SETTLED -> forget_rows(r)
				:: else
				fi;
				r++
			:: else -> break
			od;
			committed = committed | bit(fold_xid(f))
		}
	:: skip						/* aborts: its rows are never seen */
	fi;
	atomic { let_go() }
}

/* One fold at a time: a lock on base_recent elects it. */
proctype Maintenance()
{
	byte f, i, r, n, from, sum, mine, snapshot;
	bool got;

	do
	:: f < FOLDS ->
		if
		:: fold_segments()
		:: settle()
		fi;
		end_fold();
		f++
	:: else -> break
	od
}

/* The rows of a table that the snapshot sees, and whether it is too old for them */
inline read_base(t)
{
	d_step {
		i = 0;
		do
		:: i < FOLDS ->
			if
			:: has(snapshot, fold_xid(i)) -> total = total + count(table(t).sum[i])
			:: !has(snapshot, fold_xid(i)) && has(newest, fold_xid(i)) && table(t).header[i] &&
			   t == RECENT -> stale = true
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0
	}
}

inline read_all()
{
	read_base(RECENT);
	if
	:: stale && keep
	:: else ->
		if
		:: stale -> snapshot = newest; total = 0; read_base(RECENT)
		:: else
		fi;
		read_base(SETTLED);
		read_base(SETTLED + 1);
		r = 0;
		do
		:: r < SEGMENTS -> total = total + count((log_rows[r] & snapshot)); r++
		:: else -> break
		od
	fi
}

inline answer()
{
	read_all();
	if
	:: stale && keep			/* it counts the rows themselves */
	:: else -> assert(total == count(writers_of(snapshot)))
	fi;
	r = 0;
	do
	:: r < RELATIONS -> holders[r]--; r++
	:: else -> break
	od;
	total = 0; snapshot = 0; newest = 0; stale = false; r = 0
}

/* keep: a transaction that must keep its snapshot, which may be old by now */
proctype Reader(bool keep)
{
	byte snapshot, newest, i, r, total;
	bool stale;

	snapshot = committed;
#ifdef BROKEN_NEWEST_BEFORE_LOCKS
	newest = committed;
#endif
	r = 0;
	do
	:: r < RELATIONS -> share(r); r++
	:: else -> break
	od;
#ifndef BROKEN_NEWEST_BEFORE_LOCKS
	newest = committed;
#endif
	atomic { answer() }			/* what comes meanwhile, the snapshot does not see */
}

init
{
	atomic {
		run Writer(0);
		run Writer(1);
		run Maintenance();
		if
		:: run Reader(true)
		:: run Reader(false)
		fi
	}
}
