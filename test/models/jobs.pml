/*
 * Claim, heartbeat, complete, fail and rescue: an attempt is owned by a token.
 *
 * Workers claim one job, and work at it in transactions of their own; each may
 * die at any instant, and any transaction may abort.  A lease may run out while
 * its worker is alive and about to complete.  The row changes under its lock,
 * and is seen by others when its transaction has committed: who looked at it
 * before looks again, or passes over it.
 *
 * docs/models.md says which function each step is.
 */
#define WORKERS			2
#define CLAIMS			2		/* of each worker */
#define MAX_ATTEMPTS	2

#define RESCUER			(WORKERS + 1)
#define NOBODY			0

mtype = { available, running, completed, dead };

typedef Row
{
	mtype state;
	byte token;					/* 0: none */
	byte attempt;
	bool lapsed;				/* the lease is over */
};
Row job;						/* as committed */
bool stale[RESCUER + 1];		/* who looked before it last changed */
byte locker;					/* who has locked the row */

byte tokens;					/* the sequence */
byte effects;					/* application rows that came with a completion */
byte burials;					/* dead letters */
byte workers = WORKERS;

/* Locks the version that was looked at; else it is someone's, or has changed. */
inline lock_or_pass(me)
{
	atomic {
		if
		:: locker == NOBODY && !stale[me] -> locker = me; locked = true
		:: else -> locked = false
		fi
	}
}

inline lock_or_wait(me)
{
	atomic {
		locker == NOBODY;
		if
		:: !stale[me] -> locker = me; locked = true
		:: else -> locked = false
		fi
	}
}

inline changed()
{
	stale[1] = true;
	stale[2] = true;
	stale[RESCUER] = true
}

inline end_attempt()
{
	job.token = 0;
	job.lapsed = false;
	if
	:: job.attempt < MAX_ATTEMPTS -> job.state = available
	:: else -> job.state = dead; burials++
	fi;
	changed()
}

/* The new version is seen, and the lock is free. */
inline commit_claim()
{
	d_step {
		tokens++;
		token = tokens;
		job.token = token;
		job.attempt++;
		job.lapsed = false;
		job.state = running;
		changed();
		locker = NOBODY;
		assert(job.attempt <= MAX_ATTEMPTS)
	}
}

inline claim(me)
{
	token = 0;
	atomic { stale[me] = false; ours = (job.state == available) }
	if
	:: ours ->
#ifdef BROKEN_CLAIM_TAKES_WHAT_IT_SAW
		atomic { locker == NOBODY -> locker = me; locked = true }
#else
		lock_or_pass(me);
#endif
		if
		:: locked -> commit_claim()
		:: locked -> locker = NOBODY	/* aborts */
		:: !locked
		fi
	:: else
	fi
}

/* What fail(), complete() and heartbeat() have in common: is the attempt ours? */
inline look(me)
{
	atomic {
		stale[me] = false;
#ifdef BROKEN_COMPLETE_WITHOUT_TOKEN
		ours = (job.state == running)
#else
		ours = (job.state == running && job.token == token)
#endif
	}
}

inline hold(me)
{
	locked = false;
	look(me);
	do
	:: ours && !locked ->
		lock_or_wait(me);
		if
		:: locked
		:: !locked -> look(me)
		fi
	:: else -> break
	od
}

/* The application's row goes with the completion, or neither does. */
inline commit_complete()
{
	d_step {
		assert(job.token == token);
		job.state = completed;
		effects++;
		changed();
		locker = NOBODY
	}
}

inline work(me)
{
	do
	:: hold(me);
		if
		:: locked -> d_step { job.lapsed = false; changed(); locker = NOBODY }	/* heartbeat */
		:: locked -> locker = NOBODY
		:: !locked -> break		/* JS001: the lease is lost */
		fi
	:: hold(me);
		if
		:: locked -> commit_complete(); break
		:: locked -> locker = NOBODY	/* its transaction aborts */
		:: !locked -> break
		fi
	:: hold(me);
		if
		:: locked -> d_step { end_attempt(); locker = NOBODY } break	/* fail() */
		:: !locked -> break
		fi
	:: break					/* dies, or hangs until it is forgotten */
	od
}

proctype Worker(byte me)
{
	byte token, claims;
	bool ours, locked;

	do
	:: claims < CLAIMS ->
		claim(me);
		if
		:: token != 0 -> work(me)
		:: else
		fi;
		claims++
	:: else -> break
	od;
	workers--
}

proctype Rescuer()
{
	bool ours, locked;

	do
	:: atomic { job.state == running && !job.lapsed -> job.lapsed = true }	/* time goes by */
	:: atomic { stale[RESCUER] = false; ours = (job.state == running && job.lapsed) }
		if
		:: ours ->
#ifdef BROKEN_RESCUE_DOES_NOT_LOOK_AGAIN
			atomic { locker == NOBODY -> locker = RESCUER; locked = true }
#else
			lock_or_pass(RESCUER);
#endif
			if
			:: locked -> d_step {
					assert(job.state == running && job.lapsed);
					end_attempt();
					locker = NOBODY
				}
			:: locked -> locker = NOBODY
			:: !locked
			fi
		:: else
		fi
	:: atomic { workers == 0 && job.state != running -> break }
	od;
	/* at the end nothing is at work for ever, and nothing was done twice */
	assert(locker == NOBODY);
	assert(effects == (job.state == completed));
	assert(burials == (job.state == dead));
	assert(job.attempt <= MAX_ATTEMPTS)
}

init
{
	atomic {
		job.state = available;
		run Worker(1);
		run Worker(2);
		run Rescuer()
	}
}
