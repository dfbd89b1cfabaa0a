"""A client of the load: calls at a fixed rate, and how long each one took."""

import collections
import json
import math
import multiprocessing
import os
import random
import time

import psycopg

CONTROL = 0.05   # of a slice; each begins with the control measure and a burst of each family
BURST = 0.025
GAP = 0.005


class Over(Exception):
    """The load ends here."""


class Clock:
    """Seconds since the load began, the same for all processes, and what is to happen when.

    It begins when so many processes are ready."""

    def __init__(self, seconds, length, families, processes=1):
        self.start = multiprocessing.Value("d", math.inf)
        self.ready = multiprocessing.Barrier(processes, self.begin)
        self.seconds = seconds
        self.length = length    # of a slice
        self.families = families
        self.quiet = length * (CONTROL + GAP + len(families) * (BURST + GAP))   # of each slice

    def begin(self):
        self.start.value = time.monotonic()

    def now(self):
        return time.monotonic() - self.start.value

    def burst(self, family):
        """When in a slice this family works without a pause."""
        if family not in self.families:
            return self.length, self.length
        begin = CONTROL + GAP + self.families.index(family) * (BURST + GAP)
        return begin * self.length, (begin + BURST) * self.length


class Client:
    """One connection.  The first client of a family has its bursts, all others rest meanwhile."""

    def __init__(self, clock, family, number, rate, seed, out):
        self.clock, self.family, self.number = clock, family, number
        self.interval = 1.0 / rate
        self.next = 0.0
        self.bursting = False
        self.random = random.Random(f"{seed} {family} {number}")
        self.slice = -1
        self.times = collections.defaultdict(list)  # of this slice, per verb, microseconds
        self.errors = collections.Counter()
        self.bursts = [0, 0.0]                      # calls and seconds in this slice's burst
        self.late = 0
        self.depth = 0
        self.file = open(os.path.join(out, f"calls-{family}-{number}.jsonl"), "w", encoding="ascii")
        self.db = psycopg.connect("", autocommit=True, application_name=f"soak {family} {number}")
        self.db.execute("SET synchronous_commit = off")

    # pace

    def pace(self):
        """Waits for the next call's turn."""
        if self.depth:
            return
        now = self.clock.now()
        if now >= self.clock.seconds:
            raise Over
        length = self.clock.length
        if int(now // length) != self.slice:
            self.write()
            self.slice = int(now // length)
        within = now % length
        begin, end = self.clock.burst(self.family)
        mine = self.number == 0 and begin <= within < end
        if self.bursting and not mine:
            self.next = now - within + self.clock.quiet + self.random.random() * self.interval
        self.bursting = mine
        if mine:
            return
        if within < self.clock.quiet:
            turn = begin if self.number == 0 and within < begin < self.clock.quiet else self.clock.quiet
            self.next = now - within + self.clock.quiet + self.random.random() * self.interval
            self.sleep(turn - within)
            return self.pace()
        if self.next < now - 1.0:
            self.late += 1
            self.next = now
        if self.next > now:
            self.sleep(self.next - now)
            self.next += self.gap()
            return None if self.clock.now() // length == self.slice else self.pace()
        self.next += self.gap()

    def gap(self):
        """To the next call: never the same, or the clients would come in step."""
        return self.interval * (0.5 + self.random.random())

    def sleep(self, seconds):
        time.sleep(max(0.0, min(seconds, self.clock.length)))

    def write(self):
        """What the slice gave, as one line."""
        if self.slice >= 0:
            json.dump({"slice": self.slice, "times": self.times, "burst": self.bursts, "errors": self.errors,
                       "late": self.late}, self.file)
            self.file.write("\n")
            self.file.flush()
        self.times, self.errors = collections.defaultdict(list), collections.Counter()
        self.bursts, self.late = [0, 0.0], 0

    def note(self, verb, took):
        if self.bursting:
            self.bursts[0] += 1
            self.bursts[1] += took
        else:
            self.times[verb].append(round(took * 1e6))

    # calls

    def call(self, verb, sql, parameters=(), expect=()):
        """Rows of a statement in a transaction of its own; None if it raised what was to be expected."""
        self.pace()
        begin = time.perf_counter()
        try:
            cursor = self.db.execute(sql, parameters)
            rows = cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            if self.depth or error.sqlstate not in expect:
                raise
            self.errors[f"{verb} {error.sqlstate}"] += 1
            return None
        if not self.depth:
            self.note(verb, time.perf_counter() - begin)
        return rows

    def together(self, verb, *calls, expect=()):
        """Several statements in one transaction; the rows of the last one, None after an expected error."""
        self.pace()
        begin = time.perf_counter()
        self.depth += 1
        try:
            with self.db.transaction():
                for sql, parameters in calls:
                    cursor = self.db.execute(sql, parameters)
                    rows = cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            if error.sqlstate not in expect:
                raise
            self.errors[f"{verb} {error.sqlstate}"] += 1
            return None
        finally:
            self.depth -= 1
        self.note(verb, time.perf_counter() - begin)
        return rows

    def chance(self, p):
        return self.random.random() < p
