/*
 * Derive, where no foreign key forbids that children come before their parent.
 *
 * One transaction inserts the parent, others change a child each.  Who has a new
 * parent and who found none lock the parent's key, in modes that conflict with
 * each other but not with themselves, and look after that.
 *
 * docs/models.md says which C function each step is.
 */
#define CHILDREN		2

#define bit(x)			(1 << (x))
#define all				(bit(CHILDREN) - 1)

byte done;						/* children that are done, as committed: a set */
bool there;						/* the parent is, as committed */
bool state;						/* its state */
byte locker;					/* who holds its row, + 1 */
byte has_new, found_none;		/* who holds the key's lock in which mode */

inline lock_key(mode, conflicting)
{
#ifdef BROKEN_NO_KEY_LOCK
	skip
#else
	atomic { conflicting == 0 -> mode++ }
#endif
}

inline unlock_key(mode)
{
#ifndef BROKEN_NO_KEY_LOCK
	mode--
#else
	skip
#endif
}

proctype Inserter()
{
	byte children;

	lock_key(has_new, found_none);
	children = done;
	atomic {
		there = true;
		state = (children == all);
		assert(state == (done == all))
	}
	unlock_key(has_new)
}

proctype Changer(byte me)
{
	byte children;
	bool missed, found;

	found = there;
	if
	:: !found ->
		lock_key(found_none, has_new);
		missed = true;
#ifndef BROKEN_LOOKS_ONCE
		found = there
#endif
	:: else
	fi;
	if
	:: found ->
		atomic { locker == 0 -> locker = me + 1 }
		children = done | bit(me)
	:: else
	fi;
	if
	:: atomic {
			done = done | bit(me);
			if
			:: found -> state = (children == all)
			:: else
			fi;
			assert(!there || state == (done == all))
		}
	:: skip						/* aborts */
	fi;
	if
	:: found -> locker = 0
	:: else
	fi;
	if
	:: missed -> unlock_key(found_none)
	:: else
	fi
}

init
{
	atomic {
		run Inserter();
		run Changer(0);
		run Changer(1)
	}
}
