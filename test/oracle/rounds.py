"""The kinds of rounds: which scripts the sessions get."""

import random

import compare
from operations import ORPHANED, TAKEN, Operations
from schema import LISTED_BUSY, MACHINE, RANGED_MIDDLE
from script import LATE, UNDER_DDL, Block, Script, Statement, Transaction

ISOLATION = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
ZONES = ("UTC", "Asia/Kolkata", "America/St_Johns", "Pacific/Chatham")
STYLES = ("ISO, MDY", "SQL, DMY", "German, YMD", "Postgres, MDY")
# What somebody meets who found no time to finish the last sequence.
HALF_DONE = frozenset({"42P01", "42P07", "42809", "42P17"})
INTERVALS = ("postgres", "iso_8601", "sql_standard", "postgres_verbose")


def settings(random):
    return ["SET deadlock_timeout = '30ms'", "SET lock_timeout = '400ms'",
            f"SET timezone = '{random.choice(ZONES)}'", f"SET datestyle = '{random.choice(STYLES)}'",
            f"SET intervalstyle = '{random.choice(INTERVALS)}'", f"SET extra_float_digits = {random.choice((-15, 0, 3))}",
            f"SET bytea_output = '{random.choice(('hex', 'escape'))}'",
            f"SET search_path = {random.choice(('public', 'oracle, pg_catalog', 'pg_temp'))}"]


class Writer:
    """Makes one session's script."""

    def __init__(self, seed, tables, session, sessions, apart):
        self.random = random.Random(f"{seed}/{session}")
        mine = [t for t in tables if t.written and t.owner in (None, session)]
        self.ops = Operations(self.random, mine, session, sessions, apart)
        self.tables = mine
        self.apart = apart
        self.by_name = {table.name: table for table in tables}
        self.usual = frozenset() if apart else LATE

    # bodies of transactions

    def body(self, length, depth=1):
        """Writes, some under savepoints, some refused."""
        parts = []
        for _ in range(length):
            choice = self.random.random()
            if choice < 0.2 and depth < 4:
                parts.append(Block(self.body(self.random.randint(1, 3), depth + 1), self.random.random() < 0.5))
            elif choice < 0.3:
                parts.append(Block([self.ops.illegal(self.ops.table())]))
            else:
                parts.extend(self.ops.any())
        return parts

    def checked(self, body, isolation):
        """A comparison after each statement, where nobody else can change what is compared."""
        parts = []
        for part in body:
            parts.append(Block(self.checked(part.body, isolation), part.keep) if isinstance(part, Block) else part)
            parts.append(self.comparison(isolation))
        return parts

    def comparison(self, isolation):
        """In a snapshot that stays, any table; else only one that nobody else writes."""
        if isolation == "READ COMMITTED" and not self.alone:
            table = self.random.choice([t for t in self.tables if t.owner is not None and not t.part_of])
        else:
            table = self.by_name[self.ops.table().attached]
        made = compare.counts(table) if self.random.random() < 0.7 else compare.one_group(self.ops, table)
        made.may = LATE if not self.apart else frozenset()
        return made

    alone = False

    def transaction(self, isolation, length, checks=0.3):
        body = self.body(length)
        if self.random.random() < checks:
            body = self.checked(body, isolation)
        if self.random.random() < 0.2:
            body.append(Statement(f"SELECT pg_sleep({self.random.uniform(0, 0.06):.3f})"))
        end = self.random.choices(("COMMIT", "ROLLBACK", "PREPARE", "COMMIT AND CHAIN"), (12, 2, 3, 1))[0]
        if end == "PREPARE" and not self.apart and self.random.random() < 0.1:
            body.append(self.ops.truncate(self.ops.table()))
        return Transaction(f"BEGIN ISOLATION LEVEL {isolation}", body, end,
                           self.random.choice(("COMMIT", "COMMIT", "ROLLBACK")), self.usual | ORPHANED)

    def procedure(self):
        """Commits in the middle of a statement."""
        parts = []
        for _ in range(self.random.randint(2, 4)):
            statement = self.ops.update(self.ops.table())
            parts.append(f"{statement.sql}; {self.random.choice(('COMMIT', 'COMMIT', 'ROLLBACK'))};")
        return Statement(f"DO $$ BEGIN {' '.join(parts)} END $$", self.usual | ORPHANED | TAKEN)

    def implicit(self):
        """Several statements in one message: one transaction without a BEGIN."""
        statements = [self.ops.any()[-1] for _ in range(3)]
        return Statement("; ".join(s.sql for s in statements if s.copy is None), frozenset.union(*(s.may for s in statements), ORPHANED))

    def fold(self):
        return self.random.choice((Statement("SELECT jobstate.fold()", self.usual), Statement("SELECT jobstate.fold()", self.usual),
                                   Statement("CALL jobstate.maintain()", self.usual)))

    def many(self):
        """More keys than fit in a page of the log, or than the tally keeps in memory."""
        wide = self.by_name["oracle.wide"]
        huge = self.alone and self.random.random() < 0.3
        fill, change, empty = self.ops.many(wide, 70000 if huge else self.random.choice((2000, 3000, 6000)))
        kept = self.random.random() < 0.6
        body = [*self.body(1), Block([fill, change], kept) if self.random.random() < 0.5 else fill, *self.body(1)]
        if huge:
            body += [compare.counts(wide), Block([change], kept), compare.counts(wide), empty]
        elif self.random.random() < 0.5:
            body.append(empty)
        return Transaction("BEGIN", body, self.random.choice(("COMMIT", "COMMIT", "ROLLBACK")), may=self.usual | ORPHANED)

    def truncate(self):
        truncate = self.ops.truncate(self.ops.table())
        body = [*self.body(1), self.random.choice((truncate, Block([truncate, *self.body(1)], False))), *self.body(1)]
        return Transaction("BEGIN", body, self.random.choice(("COMMIT", "ROLLBACK")), may=self.usual | ORPHANED)

    def prune(self, isolation):
        tables = [t for t in self.tables if not t.part_of and (t.owner is not None or not self.apart)]
        return Transaction(f"BEGIN ISOLATION LEVEL {isolation}", [*self.body(1), self.ops.prune(self.random.choice(tables))],
                           self.random.choice(("COMMIT", "COMMIT", "ROLLBACK", "PREPARE")), may=self.usual | ORPHANED)

    def reader(self):
        """Keeps a snapshot while others fold, and compares all the while."""
        isolation = self.random.choice(ISOLATION[1:])
        body = []
        for _ in range(self.random.randint(3, 6)):
            if self.random.random() < 0.4:
                body.append(Block(self.ops.any(), self.random.random() < 0.7))
            body += [Statement(f"SELECT pg_sleep({self.random.uniform(0, 0.05):.3f})"), self.comparison(isolation)]
        if self.random.random() < 0.2 and self.ops.guarded:
            # Its own fold must not show it what its snapshot does not see. Not beside somebody who changes tables and
            # reads counts: who keeps readers of counts out had better not wait for a table.
            body += [Statement("SELECT jobstate.fold()", self.usual), self.comparison(isolation)]
        return Transaction(f"BEGIN ISOLATION LEVEL {isolation}", body, self.random.choice(("COMMIT", "ROLLBACK")),
                           may=self.usual | ORPHANED)

    def step(self):
        isolation = self.random.choice(ISOLATION)
        return self.random.choices(
            (lambda: self.transaction(isolation, self.random.randint(1, 5)), lambda: self.implicit(), lambda: self.procedure(),
             lambda: self.fold(), lambda: self.truncate(), lambda: self.prune(isolation), lambda: self.reader(), lambda: self.many()),
            (10, 2, 1, 2, 0.2, 1.5, 1.5, 0.2))[0]()

    def script(self, length):
        return Script(settings(self.random), [self.step() for _ in range(length)])


class Apart(Writer):
    """Nobody wants what another one has, so nobody may be late: all that they share are groups.

    Where all is serializable they write tables of their own, because pages of an index are shared as well. As long as
    nobody folds, reading the counters of all must not make anybody late, either.
    """

    def __init__(self, seed, tables, session, sessions):
        super().__init__(seed, tables, session, sessions, True)
        chance = random.Random(f"{seed}/isolation")
        self.serializable = chance.random() < 0.5
        self.folded = not self.serializable or chance.random() < 0.5
        if self.serializable:
            self.tables = self.ops.tables = [t for t in self.tables if t.owner is not None]

    def read_all(self):
        transaction = self.transaction("SERIALIZABLE", self.random.randint(1, 3), 0)
        for place in (0, len(transaction.body)):
            transaction.body.insert(place, Statement("SELECT * FROM jobstate.counts('oracle.shared')"))
        return transaction

    def step(self):
        isolation = "SERIALIZABLE" if self.serializable else self.random.choice(ISOLATION[:2])
        return self.random.choices(
            (lambda: self.transaction(isolation, self.random.randint(1, 5), 0 if self.serializable else 0.3),
             lambda: self.implicit(), lambda: self.prune(isolation), lambda: self.fold() if self.folded else self.read_all()),
            (10, 2, 1, 2 if self.folded else 6))[0]()


def folder(seed, length):
    """Folds and dawdles: readers of counts wait for it, writers never do."""
    chance = random.Random(f"{seed}/folder")
    return Script(settings(chance), [Transaction("BEGIN", [Statement("SELECT jobstate.fold()"), Statement("SELECT pg_sleep(0.15)")])
                                     for _ in range(max(1, length // 6))])


class Alone(Writer):
    """One session that may do anything, compared after every statement."""

    alone = True

    def __init__(self, seed, tables):
        super().__init__(seed, tables, 0, 1, False)

    def body(self, length, depth=1):
        parts = super().body(length, depth)
        if self.random.random() < 0.1:
            parts.insert(self.random.randrange(len(parts)), self.fold())
        return parts

    def transaction(self, isolation, length, checks=1):
        return super().transaction(isolation, length, checks)


class Rebuilder(Writer):
    """Takes tables' counters away and gives them back, and changes tables, while others write and read."""

    def script(self, length):
        script = super().script(2 * length)
        for _ in range(self.random.choice((0, 1, 1, 2))):
            place = self.random.randrange(len(script.steps))
            script.steps[place:place] = [
                Statement("ALTER TABLE oracle.listed DETACH PARTITION oracle.listed_busy CONCURRENTLY", UNDER_DDL | HALF_DONE),
                *(Statement(sql, UNDER_DDL | HALF_DONE) for sql in (LISTED_BUSY, "SELECT jobstate.recount('oracle.listed')"))]
        return script

    def step(self):
        table = self.by_name[self.random.choice((self.ops.table().attached, "oracle.listed", "oracle.ranged"))]
        sequence = self.random.choice([*self.of_counting(table), *self.of_partitions(), *self.of_names()])
        # before this sequence hides what another one left
        check = compare.verify(table)
        check.may = UNDER_DDL
        body = [check, *(Statement(sql, UNDER_DDL | HALF_DONE) for sql in ("COMMIT", "BEGIN", *sequence))]
        return Transaction("BEGIN", body, self.random.choice(("COMMIT", "COMMIT", "COMMIT", "ROLLBACK")), may=LATE)

    def switch(self, what):
        return [f"ALTER TABLE {what} {how} TRIGGER jobstate_watch" for how in ("DISABLE", "ENABLE ALWAYS")]

    def of_counting(self, table):
        """What takes the counters away, and what gives them back."""
        whole = f"'{table.name}'::regclass"
        recount = f"SELECT jobstate.recount({whole})"
        unseen = self.ops.delete(table).sql
        off, on = self.switch(self.random.choice((table.name, *table.truncatable)))
        # a partition alone: those who write the others do not stand in the way, and are counted all the same
        briefly = self.switch(self.random.choice(table.truncatable or (table.name,)))
        return [
            [*briefly, "COMMIT", "BEGIN", recount],
            [*briefly, "COMMIT", "BEGIN", recount],
            [f"SELECT jobstate.rebuild({whole})"],
            [f"SELECT jobstate.detach({whole})", table.attach()],
            [f"SELECT jobstate.detach({whole})", "COMMIT", "BEGIN", table.attach()],
            [off, unseen, on, recount],
            [off, unseen, on, "COMMIT", "BEGIN", recount],
            [off, "COMMIT", "BEGIN", unseen, on, "COMMIT", "BEGIN", recount],
        ]

    def of_partitions(self):
        """Partitions that leave and come back changed, or come and go."""
        detach = "ALTER TABLE oracle.ranged DETACH PARTITION oracle.ranged_middle"
        recount = "SELECT jobstate.recount('oracle.ranged')"
        return [
            [detach, RANGED_MIDDLE],
            [detach, "COMMIT", "BEGIN", "UPDATE oracle.ranged_middle SET state = 1 WHERE id % 5 = 0", RANGED_MIDDLE,
             "COMMIT", "BEGIN", recount],
            ["CREATE TABLE oracle.ranged_new PARTITION OF oracle.ranged FOR VALUES FROM (3) TO (4)",
             "INSERT INTO oracle.ranged (id, state, g1) VALUES (1, 1, 3), (2, 1, 3.5)", "COMMIT", "BEGIN",
             "DROP TABLE oracle.ranged_new", "COMMIT", "BEGIN", recount],
        ]

    def of_names(self):
        """Names, types and a machine that change."""
        return [
            ["ALTER TYPE oracle.colour RENAME VALUE 'red' TO 'crimson'", "ALTER TYPE oracle.colour RENAME VALUE 'crimson' TO 'red'"],
            ["ALTER TABLE oracle.named RENAME g1 TO gx", self.ops.stock(self.by_name["oracle.plain"]).sql,
             "UPDATE oracle.named SET gx = 3 WHERE id % 7 = 0", "ALTER TABLE oracle.named RENAME gx TO g1"],
            ["ALTER TABLE oracle.named RENAME TO titled", "UPDATE oracle.titled SET g1 = 2 WHERE id % 6 = 0",
             "ALTER TABLE oracle.titled RENAME TO named"],
            ["ALTER TABLE oracle.named ALTER g1 TYPE bigint", "ALTER TABLE oracle.named ALTER g1 TYPE integer",
             "SELECT jobstate.recount('oracle.named')"],
            [MACHINE.replace('"new"', '"parked": 7, "new"'), "COMMIT", "BEGIN", MACHINE],
        ]


def stock(seed, tables, sessions):
    """Rows that a round begins with, in some of the tables."""
    chance = random.Random(f"{seed}/stock")
    ops = Operations(chance, tables, 0, sessions, False)
    return [ops.stock(t) for t in tables if t.written and t.name != "oracle.wide" and chance.random() < 0.6]
