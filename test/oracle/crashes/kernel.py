"""Attached tables, one of them partitioned: written in every way, with savepoints and prepared transactions, and pruned.

The groups of a client are its own, so the order of its journal is that of its commits.
"""

from collections import Counter

import psycopg

from .client import Family, Trouble, differ, settled_by

WIDTH = 1500  # groups of a client; a transaction over all of them fills the log fast
NEXT = {"new": ("active", "lost"), "active": ("new", "done", "lost")}
ENDS = ("done", "lost")
TABLES = ("item", "thing")


class Kernel(Family):
    name = "kernel"

    def __init__(self, stage):
        super().__init__(stage)
        self.rows = {}  # (table, id): group, state
        self.total = Counter()  # by table, group and state; pruned rows included
        self.small = None
        self.busy = set()  # rows of transactions that are prepared
        self.steps = {self.insert: 6, self.wide: 4, self.move: 8, self.transition: 4, self.take: 3, self.shift: 3, self.delete: 2,
                      self.illegal: 1, self.compare: 1, self.finish: 4, self.truncate: 1}

    def build(self, db):
        db.execute("""SELECT jobstate.define_machine('crash', '{"new": 1, "active": 2, "done": 3, "lost": 4}',
            '{new -> active, active -> new, active -> done, active -> lost, new -> lost}', '{new}', '{done, lost}')""")
        columns = "grp int NOT NULL, state text NOT NULL DEFAULT 'new', touched timestamptz NOT NULL DEFAULT clock_timestamp()"
        db.execute(f"""CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY, part int NOT NULL, {columns}, PRIMARY KEY (id, part))
            PARTITION BY LIST (part)""")
        for part in range(3):
            db.execute(f"CREATE TABLE item_{part} PARTITION OF item FOR VALUES IN ({part})")
        db.execute(f"CREATE TABLE thing (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, part int NOT NULL, {columns})")
        db.execute(f"CREATE TABLE small (id int, {columns})")
        for table in (*TABLES, "small"):
            db.execute(f"CREATE INDEX ON {table} (grp)")
            db.execute(f"SELECT jobstate.attach('{table}', 'crash', 'state', '{{grp}}')")

    # the account

    def did_row(self, client, table, id, grp, state):
        old = self.rows.pop((table, id), None)
        if old:
            self.total[(table, *old)] -= 1
        if state:
            self.total[table, grp, state] += 1
            if state not in ENDS or client.chance(0.02):
                self.rows[table, id] = grp, state
        self.busy.discard((table, id))

    def did_small(self, client, counts):
        self.small = counts

    def forgotten(self, client, effects):
        self.busy -= {effect[1:3] for effect in effects}

    def did(self, work, table, rows):
        for id, grp, state in rows:
            work.did("row", table, id, grp, state)
            self.busy.add((table, id))

    # what clients do

    def mine(self, client, states, table=None, most=40):
        with self.stage.lock:
            rows = [key for key, (grp, state) in self.rows.items() if grp // WIDTH == client.number and state in states
                    and key not in self.busy and table in (None, key[0])]
        table = table or client.random.choice(TABLES)
        ids = [id for name, id in rows if name == table]
        return table, sorted(client.random.sample(ids, min(len(ids), client.random.randint(1, most))))

    def group(self, client):
        return client.number * WIDTH + client.random.choice((0, 1, 2, client.random.randrange(WIDTH)))

    def insert(self, client):
        table, n, grp = client.random.choice(TABLES), client.random.randint(1, 60), self.group(client)
        sql = f"INSERT INTO {table} (part, grp) SELECT i %% 3, %s FROM generate_series(1, %s) i RETURNING id, grp, state"
        with client.transaction(may_prepare=True) as work:
            self.did(work, table, client.ask(sql, grp, n))
            if client.chance(0.3):
                client.db.execute("SAVEPOINT s")
                client.ask(sql, grp, 2 * n)
                client.db.execute("ROLLBACK TO s")
                self.did(work, table, client.ask(sql, grp, 1))

    def wide(self, client):
        """Every group of the client at once: what was made, or what is there, moves."""
        table, low = client.random.choice(TABLES), client.number * WIDTH
        with client.transaction() as work:
            rows = client.ask(f"""INSERT INTO {table} (part, grp) SELECT 0, %s + i FROM generate_series(0, %s) i
                RETURNING id, grp, state""", low, WIDTH - 1)
            if client.chance(0.5):
                rows = client.ask(f"""UPDATE {table} SET state = 'lost', touched = clock_timestamp() WHERE id = ANY (%s)
                    RETURNING id, grp, state""", [id for id, _, _ in rows])
            self.did(work, table, rows)

    def move(self, client):
        state = client.random.choice(tuple(NEXT))
        table, ids = self.mine(client, (state,))
        with client.transaction(may_prepare=True) as work:
            self.did(work, table, client.ask(f"""UPDATE {table} SET state = %s, touched = clock_timestamp()
                WHERE id = ANY (%s) RETURNING id, grp, state""", client.random.choice(NEXT[state]), ids))

    def transition(self, client):
        _, ids = self.mine(client, ("active", "new", "done"), "thing")
        with client.transaction(may_prepare=True) as work:
            ids = [id for id, in client.ask("SELECT jobstate.transition('thing', %s::bigint[], 'lost')", ids)]
            self.did(work, "thing", client.ask("SELECT id, grp, state FROM thing WHERE id = ANY (%s)", ids))

    def take(self, client):
        with client.transaction() as work:
            grp = self.group(client)
            ids = [id for id, in client.ask("SELECT jobstate.take('thing', 'new', 'active', jsonb_build_object('grp', %s::int), 10)", grp)]
            self.did(work, "thing", [(id, grp, "active") for id in ids])

    def shift(self, client):
        """To another group and another partition."""
        table, ids = self.mine(client, ("new", "active"))
        with client.transaction(may_prepare=True) as work:
            self.did(work, table, client.ask(f"UPDATE {table} SET grp = %s, part = (part + 1) %% 3 WHERE id = ANY (%s) RETURNING id, grp, state",
                                             self.group(client), ids))

    def delete(self, client):
        table, ids = self.mine(client, ("new", "active", *ENDS))
        with client.transaction(may_prepare=True) as work:
            gone = client.ask(f"DELETE FROM {table} WHERE id = ANY (%s) RETURNING id, grp", ids)
            self.did(work, table, [(id, grp, None) for id, grp in gone])

    def illegal(self, client):
        table, ids = self.mine(client, ("new",), most=1)
        try:
            if client.ask(f"UPDATE {table} SET state = 'done' WHERE id = ANY (%s) AND state = 'new' RETURNING id", ids):
                raise Trouble("the guard let a row pass from new to done")
        except psycopg.errors.CheckViolation:
            pass

    def compare(self, client):
        """In one snapshot, in the midst of all others' work."""
        table = client.random.choice(TABLES)
        client.db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        try:
            wrong = client.ask(f"""SELECT * FROM (SELECT grp, state, count(*) FROM {table} GROUP BY 1, 2) r FULL JOIN
                (SELECT (group_key ->> 'grp')::int AS grp, state, n FROM jobstate.counts('{table}') WHERE n > 0) c
                USING (grp, state) WHERE n IS DISTINCT FROM count""")
        except psycopg.Error:
            client.db.execute("ROLLBACK")
            raise
        client.db.execute("COMMIT")
        if wrong:
            raise Trouble(f"counts of {table}: {wrong[:3]}")

    def finish(self, client):
        if client.prepared:
            client.finish_prepared()
        else:
            self.move(client)

    def truncate(self, client):
        """One client alone empties a table and fills it again."""
        if client.number:
            return
        n = client.random.randint(1, 30)
        with client.transaction() as work:
            client.db.execute("TRUNCATE small")
            client.db.execute("INSERT INTO small (id, grp) SELECT i, i %% 3 FROM generate_series(1, %s) i", (n,))
            work.did("small", n)

    # what must be

    def check(self, db):
        told, live = Counter(), Counter()
        for table in TABLES:
            for grp, state, alive, total in db.execute(f"SELECT (group_key ->> 'grp')::int, state, live, total FROM jobstate.totals('{table}')"):
                told[table, grp, state] += total
                live[table, grp, state] += alive
        yield from differ("live and rolled up", told, self.total)
        rows = Counter()
        for table in TABLES:
            for grp, state, n in db.execute(f"SELECT grp, state, count(*) FROM {table} GROUP BY 1, 2"):
                rows[table, grp, state] = n
        yield from differ("live", live, rows)
        n, = db.execute("SELECT count(*) FROM small").fetchone()
        if self.small is not None and n != self.small:
            yield f"{n} rows of small, and not {self.small}"

    def settle(self, db):
        for table in TABLES:
            for old, new in (("new", "lost"), ("active", "done")):
                moved = db.execute(f"UPDATE {table} SET state = %s, touched = now() - interval '1 day' WHERE state = %s RETURNING grp", (new, old)).fetchall()
                for grp, in moved:
                    self.total[table, grp, old] -= 1
                    self.total[table, grp, new] += 1
            left = settled_by(db, 10 ** 4, lambda: db.execute(f"SELECT jobstate.prune('{table}', '0 s', 'touched', 10000)"),
                              f"SELECT count(*) FROM {table}")
            if left:
                yield f"{left} rows of {table} cannot be pruned"
        yield from self.check(db)
