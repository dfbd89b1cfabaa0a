/*
 * Derive: a parent's state follows from all its children.
 *
 * Each transaction changes a child of its own of each parent, and before commit
 * locks the parents, reads their children and writes what follows.  The rule
 * is "all are done".  What others have not committed is not seen.
 *
 * docs/models.md says which C function each step is.
 */
#define PARENTS			2
#define TRANSACTIONS	3

#define bit(x)			(1 << (x))
#define all				(bit(TRANSACTIONS) - 1)

byte done[PARENTS];				/* children that are done, as committed: a set */
bool state[PARENTS];			/* of the parents, as committed: are all done? */
byte locker[PARENTS];			/* the transaction + 1 that holds the parent's row */

inline read_children(p)
{
	children = done[p] | bit(me)
}

/* Locks a parent, and reads its children after that. */
inline derive_one(p)
{
	atomic {
#ifdef BROKEN_SNAPSHOT_BEFORE_LOCK
		read_children(p)
#else
		skip
#endif
	}
#ifdef BROKEN_LOCK_ONLY_WHAT_SEEMS_TO_CHANGE
	atomic { read_children(p) }
	if
	:: (children == all) != state[p] -> atomic { locker[p] == 0 -> locker[p] = me + 1 }
	:: else
	fi;
#else
	atomic { locker[p] == 0 -> locker[p] = me + 1 }
#endif
#ifndef BROKEN_SNAPSHOT_BEFORE_LOCK
	atomic { read_children(p) }
#endif
	wanted[p] = (children == all)
}

/* Child and parent are seen at one instant; the locks go after that. */
inline commit_all()
{
	d_step {
		p = 0;
		do
		:: p < PARENTS ->
			done[p] = done[p] | bit(me);
			state[p] = wanted[p];
			assert(state[p] == (done[p] == all));
			p++
		:: else -> break
		od;
		p = 0
	}
}

proctype Transaction(byte me)
{
	byte p, children;
	bool wanted[PARENTS];

#ifdef BROKEN_UNSORTED_LOCKS
	if
	:: me % 2 == 1 -> derive_one(1); derive_one(0)
	:: else -> derive_one(0); derive_one(1)
	fi;
#else
	derive_one(0);
	derive_one(1);
#endif
	if
	:: commit_all()
	:: skip						/* aborts */
	fi;
	p = 0;
	do
	:: p < PARENTS ->
		atomic {
			if
			:: locker[p] == me + 1 -> locker[p] = 0
			:: else
			fi
		}
		p++
	:: else -> break
	od
}

init
{
	atomic {
		run Transaction(0);
		run Transaction(1);
		run Transaction(2)
	}
}
