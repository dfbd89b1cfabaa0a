"""Random operations on the tables, from a random generator alone: no look at the data, so a seed tells everything."""

from schema import KINDS, STATES, Column, literal
from script import LATE, Statement

TAKEN = frozenset({"23505"})
ORPHANED = frozenset({"23503"})
IDS = 80
CODES = 24
TEXT = Column("text", KINDS["text"])


def group_key(pairs):
    """Columns and spellings as an argument: ISO spellings, which mean the same whatever the session's settings are."""
    return "jsonb_build_object(" + ", ".join(
        f"'{column.name}', {literal(TEXT, text)}" for column, text in pairs) + ")"


class Operations:
    """The operations of one session; where sessions stay apart, only on rows that are its own."""

    def __init__(self, random, tables, session, sessions, apart):
        self.random = random
        self.tables = tables
        self.session = session
        self.sessions = sessions
        self.apart = apart
        self.usual = frozenset() if apart else LATE
        self.guarded = True  # nobody switches the guard off

    # what a statement is made of

    def numbers(self, limit, n):
        limit = max(limit, 2 * self.sessions + 1)
        pool = range(self.session + 1, limit, self.sessions) if self.apart else range(1, limit)
        return self.random.sample(pool, min(n, len(pool)))

    def ids(self, most=5):
        return self.numbers(IDS, self.random.randint(1, most))

    def spelling(self, column):
        if column.name == "code":
            return str(self.numbers(CODES, 1)[0])
        if column.nullable and self.random.random() < 0.08:
            return None
        # the first values and spellings more often than the others: hot groups
        value = column.kind.values[min(int(self.random.expovariate(1)), len(column.kind.values) - 1)]
        return self.random.choice(value)

    def value(self, column):
        return literal(column, self.spelling(column))

    def born(self):
        return f"2024-03-0{self.random.randint(1, 3)} {self.random.choice(('00:10', '23:50'))}:00+00"

    def row(self, table, id):
        """A new row's values as text, in the order of table.columns."""
        state = self.random.choice(("new", "new", "ready"))
        needs = [str(self.numbers(CODES, 1)[0]) for _ in table.needs]
        return [str(id), table.state_text(state), *[self.spelling(c) for c in table.groups], self.born(), *needs]

    def literals(self, table, row):
        groups = [literal(column, text) for column, text in zip(table.groups, row[2:])]
        rest = row[2 + len(groups):]
        return ", ".join([f"{row[0]}::bigint", f"'{row[1]}'::{table.state_type}", *groups, f"'{rest[0]}'::timestamptz", *rest[1:]])

    def rows(self, table, ids):
        return ", ".join(f"({self.literals(table, self.row(table, id))})" for id in ids)

    def where(self, table, alias=""):
        if not self.apart and self.random.random() < 0.2:
            condition = self.random.choice((f"state = {table.state(self.random.choice(list(STATES)))}", "id % 9 = 4"))
            return f"{alias}{condition}"
        return f"{alias}id IN ({', '.join(map(str, self.ids()))})"

    def regroup(self, table):
        columns = self.random.sample(table.groups, self.random.randint(1, len(table.groups)))
        return ", ".join(f"{column.name} = {self.value(column)}" for column in columns)

    def step(self, table, alias=""):
        return f"state = {table.step(alias + 'state', self.random.randint(1, 3))}"

    def changes(self, table, alias=""):
        """The SET list of an update."""
        kind = self.random.random()
        if kind < 0.5 or not table.groups:
            return self.step(table, alias)
        if kind < 0.75:
            return self.regroup(table)
        if kind < 0.9:
            return f"{self.step(table, alias)}, {self.regroup(table)}"
        return f"note = 'touched', state = {alias}state"

    def may(self, table):
        return self.usual | (ORPHANED if table.family else frozenset())

    def key_of(self, table, row):
        """A group key as jsonb, in the spelling of the row; now and then only a part of it."""
        pairs = list(zip(table.groups, row[2:]))
        if self.random.random() < 0.3:
            pairs = self.random.sample(pairs, self.random.randint(1, len(pairs)))
        return group_key(pairs)

    # the operations

    def insert(self, table):
        columns = ", ".join(table.columns)
        return Statement(f"INSERT INTO {table.name} ({columns}) VALUES {self.rows(table, self.ids())}", self.may(table) | TAKEN)

    def insert_select(self, table):
        """Many rows, some of which are there already."""
        row = self.row(table, "id")
        if table.needs:
            return self.insert(table)
        n = self.random.choice((20, 20, 60))
        return Statement(f"INSERT INTO {table.name} ({', '.join(table.columns)}) SELECT {self.literals(table, row)}"
                         f" FROM (SELECT i * {self.sessions} + {self.session if self.apart else 0} + 1000 AS id"
                         f" FROM generate_series(1, {n}) i ORDER BY 1) ids ON CONFLICT DO NOTHING", self.may(table))

    def update(self, table):
        moved = frozenset({"23505"}) if table.moves_by or table.name == "oracle.parent" else frozenset()
        return Statement(f"UPDATE {table.name} SET {self.changes(table)} WHERE {self.where(table)}", self.may(table) | moved)

    def many(self, table, n):
        """Rows in groups of their own: to fill the table with, to change, and to empty it again."""
        first = 10 ** 6 * (self.session + 1)
        mine = f"id BETWEEN {first} AND {first + 10 ** 6 - 1}"
        rows = f"SELECT i, 1, i FROM generate_series({first}, {first + n}) i"
        return (Statement(f"INSERT INTO {table.name} (id, state, g1) {rows} ON CONFLICT DO NOTHING", self.usual),
                Statement(f"UPDATE {table.name} SET {self.step(table)} WHERE {mine} AND id % 3 = 0", self.usual),
                Statement(f"DELETE FROM {table.name} WHERE {mine}", self.usual))

    def recode(self, table):
        """A parent's code: its children's groups follow."""
        code = self.numbers(CODES, 1)[0]
        return Statement(f"UPDATE oracle.parent SET code = {code} WHERE id = {self.ids(1)[0]}", self.usual | TAKEN | ORPHANED)

    def delete(self, table):
        return Statement(f"DELETE FROM {table.name} WHERE {self.where(table)}", self.may(table))

    def copy(self, table):
        def escape(text):
            return "\\N" if text is None else text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
        lines = ["\t".join(map(escape, self.row(table, id))) + "\n" for id in self.ids(8)]
        return Statement(f"COPY {table.name} ({', '.join(table.columns)}) FROM STDIN", self.may(table) | TAKEN, copy="".join(lines))

    def upsert(self, table):
        name = table.name.split(".")[1]
        action = "NOTHING"
        if self.random.random() < 0.7:
            changes = self.regroup(table) if table.groups and not table.moves_by else "note = 'again'"
            if not table.moves_by and self.random.random() < 0.6:
                changes = self.step(table, f"{name}.")
            action = f"UPDATE SET {changes}"
        return Statement(f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES {self.rows(table, self.ids())}"
                         f" ON CONFLICT ({table.key}) DO {action}", self.may(table) | (TAKEN if table.needs else frozenset()))

    def merge(self, table):
        columns = ", ".join(table.columns)
        return Statement(f"MERGE INTO {table.name} t USING (VALUES {self.rows(table, self.ids())}) AS v ({columns}) ON t.id = v.id"
                         f" WHEN MATCHED AND t.state = {table.state('done')} THEN DELETE"
                         f" WHEN MATCHED THEN UPDATE SET {self.changes(table, 't.')}"
                         f" WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({', '.join('v.' + c for c in table.columns)})",
                         self.may(table) | TAKEN)

    def several(self, table):
        """One statement with several writes, in two tables."""
        other = self.random.choice(self.tables)
        low, high = self.ids(), self.ids()
        return Statement(f"WITH a AS (UPDATE {table.name} SET {self.changes(table)} WHERE id IN ({', '.join(map(str, low))})"
                         f" RETURNING id), b AS (DELETE FROM {other.name} WHERE id IN ({', '.join(str(i) for i in high if i not in low)}"
                         f"{', ' if set(high) - set(low) else ''}-1) RETURNING id)"
                         f" SELECT count(*) FROM a, b", self.may(table) | self.may(other) | TAKEN)

    def illegal(self, table):
        ids = ", ".join(map(str, self.ids()))
        choice = self.random.random() if self.guarded else 0
        if choice < 0.7 or table.needs:
            sql = f"UPDATE {table.name} SET state = {table.misstep('state')} WHERE id IN ({ids})"
        elif choice < 0.85 or table.state_type == "oracle.state":
            row = self.row(table, 100000 + self.session)
            row[1] = table.state_text("done")
            sql = f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({self.literals(table, row)})"
        else:
            unknown = "77" if table.state_type in ("integer", "smallint") else "'nowhere'"
            sql = f"UPDATE {table.name} SET state = {unknown} WHERE id IN ({ids})"
        return Statement(sql, self.may(table) | (TAKEN if table.moves_by else frozenset()), must="23514")

    def caught(self, table):
        """A plpgsql block whose first part is undone by an exception."""
        first, second = self.update(table), self.random.choice((self.insert_select, self.delete))(table)
        undone = self.random.choice(("RAISE division_by_zero;", "PERFORM 1 / 0;", ""))
        return Statement(f"DO $$ BEGIN BEGIN {first.sql}; {undone} EXCEPTION WHEN division_by_zero THEN {second.sql}; END; END $$",
                         first.may | second.may)

    def loop(self, table):
        """A subtransaction per turn, every other one undone."""
        change = self.changes(table)
        step = self.sessions if self.apart else 1
        first = self.session + 1 if self.apart else 1
        return Statement(f"DO $$ BEGIN FOR i IN 0 .. {self.random.randint(2, 9)} LOOP BEGIN UPDATE {table.name} SET {change}"
                         f" WHERE id = {first} + i * {step}; IF i % 2 = 1 THEN PERFORM 1 / 0; END IF;"
                         f" EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$", self.update(table).may)

    def transition(self, table):
        if not table.single_key:
            return self.update(table)
        to = self.random.choice(("ready", "busy", "done", "failed"))
        ids = ", ".join(map(str, self.ids(8)))
        return Statement(f"SELECT jobstate.transition('{table.name}', '{{{ids}}}', '{to}')", self.may(table))

    def take(self, table):
        if not table.single_key:
            return self.update(table)
        key = ""
        if table.groups and self.random.random() < 0.5:
            key = f", group_key => {self.key_of(table, self.row(table, 1))}"
        return Statement(f"SELECT jobstate.take('{table.name}', 'ready', 'busy'{key}, n => {self.random.randint(1, 4)})", self.may(table))

    def truncate(self, table):
        what = self.random.choice((table.name, *table.truncatable))
        return Statement(f"TRUNCATE {what} CASCADE" if table.family else f"TRUNCATE {what}", self.usual | {"55006"})

    def replay(self, table):
        """What a subscriber does: triggers that are not ENABLE ALWAYS are off, and the guard has judged elsewhere."""
        change = self.random.choice((f"state = {table.misstep('state')}", self.changes(table)))
        return [Statement("SET LOCAL session_replication_role = replica"),
                Statement(f"UPDATE {table.name} SET {change} WHERE {self.where(table)}", self.may(table) | TAKEN),
                Statement("SET LOCAL session_replication_role = origin")]

    def prune(self, table):
        return Statement(f"SELECT oracle.prune('{table.name}', '{self.random.choice(('0 s', '1 day'))}', {self.random.randint(1, 30)})",
                         self.usual)

    def stock(self, table):
        """Rows for all to meet; children hang on parents that the same session may write."""
        rows = []
        for id in range(1, CODES if table.family else IDS):
            row = self.row(table, id)
            code = str((id - 1) % self.sessions + 1)
            if table.name == "oracle.parent":
                row[-1] = str(id)
            elif table.family:
                row[2] = code
            rows.append(f"({self.literals(table, row)})")
        columns = ", ".join(table.columns)
        orphans = " WHERE code IN (SELECT code FROM oracle.parent)" if table.family and not table.needs else ""
        return Statement(f"INSERT INTO {table.name} ({columns}) SELECT * FROM (VALUES {', '.join(rows)}) v ({columns}){orphans}"
                         " ON CONFLICT DO NOTHING")

    # which of them

    ANYWHERE = ("insert", "insert", "insert_select", "update", "update", "update", "update", "delete", "copy", "upsert", "merge",
                "several", "caught", "loop", "transition")

    def table(self):
        return self.random.choice(self.tables)

    def any(self):
        """One write, as a list of statements."""
        table = self.table()
        if table.name == "oracle.parent" and self.random.random() < 0.4:
            return [self.recode(table)]
        if not table.family and self.random.random() < 0.04:
            return self.replay(table)
        choice = self.random.choice(self.ANYWHERE + (() if self.apart and table.owner is None else ("take",)))
        return [getattr(self, choice)(table)]
