"""Random statements over the tables of tables.sql."""

TABLES = ("plain", "other", "listed", "ranged", "mother", "daughter", "tree", "leaf", "loose", "moody", "root", "run", "step")
PARTS = {"listed": ("listed_open", "listed_over", "listed_over_low", "listed_over_high"),
         "ranged": ("ranged_low", "ranged_rest", "ranged_rest_0", "ranged_rest_1")}
VIEWS = ("v_plain", "v_instead", "v_rule")
LINKED = {"tree": "tree", "leaf": "plain", "loose": "plain", "run": "root", "step": "run"}
STATES = ("new", "ready", "busy", "done", "failed")
LEVELS = ("READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


class Words:
    def __init__(self, random, session):
        self.random = random
        self.session = session
        self.depth = 0
        self.open = False
        self.number = 0

    def step(self):
        """The statements of one step: one, or some that belong together."""
        random = self.random
        kind = random.random()
        if not self.open and kind < 0.15:
            self.open = True
            return [f"BEGIN ISOLATION LEVEL {random.choice(LEVELS)}", "SAVEPOINT a"]
        if self.open and kind < 0.12:
            return self.end()
        if self.open and kind < 0.25:
            return [random.choice(("SAVEPOINT a", "ROLLBACK TO a", "RELEASE a"))]
        if kind < 0.82:
            return [self.write()]
        return random.choice((self.cursor, self.prepared, self.verb, self.verb, self.altered, self.caught, self.truncate))()

    def end(self):
        random = self.random
        self.open = False
        self.number += 1
        gid = f"s{self.session}_{self.number}_{random.randrange(10 ** 9)}"
        return random.choice((["COMMIT"], ["COMMIT"], ["ROLLBACK"], ["SET CONSTRAINTS ALL IMMEDIATE", "COMMIT"], ["COMMIT"],
                              [f"PREPARE TRANSACTION '{gid}'", f"{random.choice(('COMMIT', 'ROLLBACK'))} PREPARED '{gid}'"]))

    # pieces

    def table(self):
        random = self.random
        if random.random() < 0.1:
            return random.choice(VIEWS)
        table = random.choice(TABLES)
        if table in PARTS and random.random() < 0.3:
            return random.choice(PARTS[table])
        return table

    def id(self):
        return self.random.randrange(1, 45)

    def up(self, table):
        """The column that refers to another table, where there is one."""
        return ", up" if table in LINKED else ""

    def state(self, old=None):
        """An expression for a state; with `old` mostly one that may follow."""
        random = self.random
        prefix = (old or "").removesuffix("state")
        if old and random.random() < 0.75:
            return f"s.next({old}, {random.choice(('0', '1', '2', prefix + 'h', f'length({prefix}note)'))})"
        if old and random.random() < 0.3:
            return f"CASE WHEN {self.condition(prefix)} THEN s.next({old}) ELSE {old} END"
        return f"'{random.choice(STATES if old else ('new', 'ready', 'new', 'ready', 'busy'))}'"

    def group(self):
        return self.random.choice(("'a'", "'b'", "'a'", "NULL", "'c,d'", "E'\\\\N'", "''", "'é'"))

    def number_of(self, prefix=""):
        return self.random.choice(("0", "1", "2", "3", "4", "5", "6", "NULL", f"{self.random.randrange(40)}"))

    def condition(self, prefix=""):
        random = self.random
        return random.choice((
            f"{prefix}id = {self.id()}", f"{prefix}id = {self.id()}", f"{prefix}id BETWEEN {self.id()} AND {self.id()}", f"{prefix}id % 7 = {random.randrange(7)}",
            f"{prefix}state = '{random.choice(STATES)}'", f"{prefix}h < {random.randrange(6)}", f"{prefix}g IS NULL", f"{prefix}g = {self.group()}",
            f"{prefix}id IN (SELECT id FROM s.{random.choice(TABLES)} WHERE h = {random.randrange(5)})",
            f"{prefix}ctid = '(0,{random.randrange(1, 20)})'" if prefix != "v." else f"{prefix}id > 30",
        ))

    def values(self, table):
        up = f", {self.random.choice(('NULL', self.id(), self.id()))}" if table in LINKED else ""
        return f"({self.id()}, {self.state()}, {self.group()}, {self.number_of()}, 'n'{up})"

    def columns(self, table):
        return f"id, state, g, h, note{self.up(table)}"

    def changes(self, table, alias=""):
        """The SET list of an UPDATE."""
        random = self.random
        parts = {"state": self.state(f"{alias}state"), "g": self.group(), "h": random.choice((self.number_of(), f"{alias}h + 1")),
                 "note": f"coalesce({alias}note, '') || 'x'", "id": f"{alias}id + {random.choice((0, 1, 45, -45))}"}
        if table in LINKED:
            parts["up"] = random.choice(("NULL", str(self.id()), f"{alias}up"))
        chosen = random.sample(list(parts)[:3], random.randint(1, 2)) + [c for c in list(parts)[3:] if random.random() < 0.15]
        return ", ".join(f"{column} = {parts[column]}" for column in chosen)

    # statements

    def write(self):
        return self.random.choice((self.insert, self.insert, self.insert, self.update, self.update, self.update, self.update, self.delete, self.upsert,
                                   self.merge, self.with_changes, self.copy, self.insert_select, self.update_from))()

    def insert(self, table=None):
        table = table or self.table()
        rows = ", ".join(self.values(table) for _ in range(self.random.choice((1, 1, 2, 4))))
        return f"INSERT INTO s.{table} ({self.columns(table)}) VALUES {rows}" + self.random.choice(
            ("", " ON CONFLICT DO NOTHING" if table not in VIEWS else "", " RETURNING id"))

    def insert_select(self):
        table, source = self.table(), self.random.choice(TABLES)
        up = ", NULL" if table in LINKED else ""
        return f"INSERT INTO s.{table} ({self.columns(table)}) SELECT id + {self.random.choice((0, 1, 20))}, {self.state()}, g, h, note{up} " \
               f"FROM s.{source} t WHERE {self.condition('t.')} LIMIT 6"

    def update(self, table=None):
        table = table or self.table()
        alias = "v." if table in VIEWS else "t."
        only = "ONLY " if self.random.random() < 0.1 else ""
        return f"UPDATE {only}s.{table} {alias[0]} SET {self.changes(table, alias)} WHERE {self.condition(alias)}" + \
            self.random.choice(("", "", f" RETURNING {alias}id, {alias}state"))

    def update_from(self):
        table, source = self.table(), self.random.choice(TABLES)
        alias = "v." if table in VIEWS else "t."
        return f"UPDATE s.{table} {alias[0]} SET {self.changes(table, alias)} FROM s.{source} o WHERE {alias}id = o.id + {self.random.choice((0, 0, 1))}"

    def delete(self, table=None):
        table = table or self.table()
        alias = "v." if table in VIEWS else "t."
        using = f" USING s.{self.random.choice(TABLES)} o" if self.random.random() < 0.2 else ""
        return f"DELETE FROM s.{table} {alias[0]}{using} WHERE {self.condition(alias)}" + (f" AND {alias}id = o.id" if using else "")

    def upsert(self):
        table = self.random.choice([t for t in TABLES if t not in ("listed", "ranged", "other")])
        rows = ", ".join(self.values(table) for _ in range(self.random.choice((1, 2, 3))))
        return f"INSERT INTO s.{table} AS t ({self.columns(table)}) VALUES {rows} ON CONFLICT (id) DO UPDATE SET {self.changes(table, 't.')}" + \
            self.random.choice(("", f" WHERE {self.condition('t.')}"))

    def merge(self):
        table, source = self.random.choice(TABLES[:-2]), self.random.choice(TABLES)
        values = self.values(table).replace(f"({self.id()}", "(o.id")
        return f"MERGE INTO s.{table} t USING (SELECT DISTINCT ON (id) * FROM s.{source} WHERE {self.condition()} ORDER BY id) o ON t.id = o.id" \
               f" WHEN MATCHED AND {self.condition('t.')} THEN {self.random.choice(('DELETE', 'DO NOTHING', 'UPDATE SET ' + self.changes(table, 't.')))}" \
               f" WHEN MATCHED THEN UPDATE SET {self.changes(table, 't.')}" \
               f" WHEN NOT MATCHED THEN INSERT ({self.columns(table)}) VALUES {values}"

    def with_changes(self):
        """Changes in one statement, often of the same rows."""
        random = self.random
        table = random.choice(TABLES)
        parts = [random.choice((self.insert, self.update, self.delete))(random.choice((table, table, random.choice(TABLES)))).split(" RETURNING")[0]
                 for _ in range(random.randint(1, 3))]
        changes = ", ".join(f"c{n} AS ({part} RETURNING 1)" for n, part in enumerate(parts))
        return f"WITH {changes} {random.choice((self.update(table), self.delete(table), 'SELECT 1'))}"

    def copy(self):
        table = self.random.choice(TABLES)
        lines = "".join(f"{self.id()}\t{self.random.choice(('new', 'ready', 'new', 'busy'))}\t{self.random.choice(('a', 'b', chr(92) + 'N', 'c,d'))}\t"
                        f"{self.random.randrange(8)}\tcopied\n" for _ in range(self.random.choice((1, 2, 5))))
        return f"COPY s.{table} (id, state, g, h, note) FROM STDIN\x00{lines}"

    # several at once

    def cursor(self):
        random = self.random
        table = random.choice(TABLES)
        if not self.open or random.random() < 0.3:
            name = f"held{random.randrange(10 ** 9)}"
            return ["BEGIN" if not self.open else "SAVEPOINT a", f"DECLARE {name} CURSOR WITH HOLD FOR SELECT s.next(state) FROM s.{table}", self.update(table),
                    *([] if self.open else ["COMMIT"]), f"FETCH 2 FROM {name}", self.write(), f"CLOSE {name}"]
        name = f"c{random.randrange(10 ** 9)}"
        return [f"DECLARE {name} CURSOR FOR SELECT * FROM s.{table} FOR UPDATE", f"FETCH {random.randint(1, 3)} FROM {name}",
                f"UPDATE s.{table} SET state = s.next(state), g = {self.group()} WHERE CURRENT OF {name}",
                random.choice((f"DELETE FROM s.{table} WHERE CURRENT OF {name}", f"UPDATE s.{table} SET h = 3 WHERE CURRENT OF {name}", "SELECT 1"))]

    def prepared(self):
        """A statement that is prepared, and a table that changes between its executions."""
        name = f"p{self.random.randrange(10 ** 9)}"
        table = self.random.choice(TABLES)
        run = f"EXECUTE {name}"
        return [f"PREPARE {name} AS {self.random.choice((self.update, self.insert, self.delete))(table)}", run, *self.altered(table), run, self.write(), run,
                f"DEALLOCATE {name}"]

    def altered(self, table=None):
        random = self.random
        table = table or random.choice(TABLES)
        number = random.randrange(10 ** 9)
        return random.choice((
            [f"ALTER TABLE s.{table} ADD COLUMN x{number} integer DEFAULT {random.choice(('7', 'random() * 9'))}", self.update(table), f"ALTER TABLE s.{table} DROP COLUMN x{number}"],
            [f"ALTER TABLE s.{table} ALTER note TYPE varchar USING note::varchar", self.update(table), f"ALTER TABLE s.{table} ALTER note TYPE text"],
            [f"ALTER TABLE s.{table} RENAME note TO remark", self.delete(table), f"ALTER TABLE s.{table} RENAME remark TO note"],
            [f"ALTER TABLE s.{table} RENAME g TO gg", f"UPDATE s.{table} SET gg = 'b', state = s.next(state)", f"ALTER TABLE s.{table} RENAME gg TO g"],
            [f"ALTER TABLE s.{table} RENAME TO {table}_x", f"UPDATE s.{table}_x SET state = s.next(state)", f"ALTER TABLE s.{table}_x RENAME TO {table}"],
            [f"ALTER TABLE s.{table} ALTER h TYPE bigint", self.update(table), f"ALTER TABLE s.{table} ALTER h TYPE integer"],
            [f"ALTER TABLE s.{table} ALTER g TYPE varchar(20)", self.update(table), f"ALTER TABLE s.{table} ALTER g TYPE text"],
            [f"ALTER TABLE s.{table} ALTER state TYPE varchar", self.update(table), f"ALTER TABLE s.{table} ALTER state TYPE text"],
            [f"VACUUM (FULL) s.{table}", f"CLUSTER s.{table} USING {table}_pkey"],
            [f"CREATE INDEX i{number} ON s.{table} (g)", self.update(table), f"DROP INDEX IF EXISTS s.i{number}"],
            [f"ALTER TABLE s.{table} ADD CONSTRAINT c{number} CHECK (id > 0) NOT VALID", self.update(table), f"ALTER TABLE s.{table} DROP CONSTRAINT IF EXISTS c{number}"],
            # foreign keys and parents are the publisher's then
            ["SET session_replication_role = replica", self.update(random.choice(TABLES[:-3])), self.insert(random.choice(TABLES[:-3])),
             "RESET session_replication_role"],
            [f"CREATE TABLE s.ranged_{number} PARTITION OF s.ranged FOR VALUES FROM ({100 + number % 10}) TO ({101 + number % 10})",
             f"INSERT INTO s.ranged (id, h) VALUES ({self.id()}, {100 + number % 10})", random.choice((
                 f"ALTER TABLE s.ranged DETACH PARTITION s.ranged_{number}", f"TRUNCATE s.ranged_{number}", f"DROP TABLE s.ranged_{number}")),
             f"DROP TABLE IF EXISTS s.ranged_{number}"],
        ))

    def truncate(self):
        random = self.random
        table = random.choice(("loose", "step", "listed", "listed_over", "ranged_rest_0", "moody", "mother", "tree", "plain CASCADE", "root CASCADE", "leaf, loose"))
        return [f"TRUNCATE {random.choice(('', 'ONLY ') if table in ('mother', 'moody', 'loose') else ('',))}s.{table.replace(', ', ', s.')}"]

    def caught(self):
        """What a function does and takes back."""
        random = self.random
        writes = [write().partition(" RETURNING")[0] for write in random.choices((self.insert, self.update, self.delete, self.upsert), k=4)]
        return [f"DO $do$ BEGIN {writes[0]}; BEGIN {writes[1]}; {writes[2]}; RAISE division_by_zero; EXCEPTION WHEN others THEN {writes[3]}; END; END $do$"]

    def verb(self):
        random = self.random
        table = random.choice(TABLES)
        return [random.choice((
            f"SELECT jobstate.transition('s.{table}', ARRAY(SELECT id FROM s.{table} LIMIT 5), '{random.choice(STATES)}')",
            f"SELECT jobstate.take('s.{table}', 'ready', 'busy', NULL, {random.randint(1, 4)})",
            f"SELECT sum(n) FROM jobstate.counts('s.{table}')", f"SELECT count(*) FROM jobstate.totals('s.{table}')",
            "SELECT jobstate.derive_now()", "SELECT jobstate.fold()", f"SELECT jobstate.rebuild('s.{table}')", f"SELECT jobstate.rederive('s.{random.choice(('run', 'root'))}')",
            f"SELECT * FROM jobstate.verify('s.{table}')", f"SELECT jobstate.uncount('s.{table}'), jobstate.recount('s.{table}')",
        ))]
