"""Parents whose state follows from their children's, and their parents in turn, at all isolation levels."""

from collections import Counter, defaultdict

from .client import Family

STATES = ("open", "done", "failed")
RULES = "{any failed -> failed, all done -> done, always -> open}"
PARENTS, REGIONS = 30, 4


def fold(states):
    """The rules, by our own account."""
    if "failed" in states:
        return "failed"
    return "done" if states and set(states) == {"done"} else "open"


class Derived(Family):
    name = "derived"
    clients = 3

    def __init__(self, stage):
        super().__init__(stage)
        self.children = {}  # id: client, parent, state
        self.busy = set()
        self.steps = {self.insert: 3, self.move: 8, self.give_away: 2, self.delete: 2, self.finish: 3}

    def build(self, db):
        edges = ", ".join(f"{a} -> {b}" for a in STATES for b in STATES if a != b)
        db.execute(f"""SELECT jobstate.define_machine('crash_state', '{{"open": 1, "done": 2, "failed": 3}}', '{{{edges}}}',
            terminal => '{{done, failed}}'), jobstate.define_rules('crash_rules', '{RULES}')""")
        state = "state text NOT NULL DEFAULT 'open'"
        db.execute(f"CREATE TABLE region (id int PRIMARY KEY, {state}, finished timestamptz, why text)")
        db.execute(f"CREATE TABLE parent (id int PRIMARY KEY, region int NOT NULL REFERENCES region, {state}, finished timestamptz, why text)")
        db.execute(f"CREATE TABLE child (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, parent int NOT NULL, {state})")
        db.execute("CREATE INDEX ON parent (region); CREATE INDEX ON child (parent)")
        for table in ("region", "parent", "child"):
            db.execute(f"SELECT jobstate.attach('{table}', 'crash_state', 'state')")
        for parent, child in (("region", "parent"), ("parent", "child")):
            db.execute(f"SELECT jobstate.derive('{parent}', '{child}', '{parent}', 'crash_rules', completed_at => 'finished', reason => 'why')")
        db.execute("INSERT INTO region SELECT generate_series(1, %s)", (REGIONS,))
        db.execute("INSERT INTO parent SELECT i, i %% %s + 1 FROM generate_series(1, %s) i", (REGIONS, PARENTS))

    def did_child(self, client, id, parent, state):
        if state:
            self.children[id] = client.number, parent, state
        else:
            self.children.pop(id, None)
        self.busy.discard(id)

    def forgotten(self, client, effects):
        self.busy -= {effect[1] for effect in effects}

    def did(self, work, rows):
        for row in rows:
            work.did("child", *row)
            self.busy.add(row[0])

    def mine(self, client):
        with self.stage.lock:
            ids = [id for id, (owner, _, _) in self.children.items() if owner == client.number and id not in self.busy]
        return client.random.sample(ids, min(len(ids), client.random.choice((1, 1, 2, 5))))

    def parent(self, client):
        return client.random.choice((1, client.random.randint(1, PARENTS)))

    def insert(self, client):
        if sum(owner == client.number for owner, _, _ in list(self.children.values())) > 100:
            return self.delete(client)
        with client.transaction(may_prepare=True) as work:
            for _ in range(client.random.randint(1, 3)):
                self.did(work, client.ask("INSERT INTO child (parent) VALUES (%s) RETURNING id, parent, state", self.parent(client)))

    def move(self, client):
        with client.transaction(may_prepare=True) as work:
            ids = self.mine(client)
            if client.chance(0.2):
                client.db.execute("SAVEPOINT s")
                client.db.execute("UPDATE child SET state = 'failed' WHERE id = ANY (%s)", (ids,))
                client.db.execute("ROLLBACK TO s")
            self.did(work, client.ask("UPDATE child SET state = %s WHERE id = ANY (%s) RETURNING id, parent, state",
                                      client.random.choice(("open", "done", "done", "done", "failed")), ids))

    def give_away(self, client):
        with client.transaction(may_prepare=True) as work:
            self.did(work, client.ask("UPDATE child SET parent = %s WHERE id = ANY (%s) RETURNING id, parent, state",
                                      self.parent(client), self.mine(client)))

    def delete(self, client):
        with client.transaction(may_prepare=True) as work:
            gone = client.ask("DELETE FROM child WHERE id = ANY (%s) RETURNING id, parent", self.mine(client) + self.mine(client))
            self.did(work, [(*row, None) for row in gone])

    def finish(self, client):
        """A parent is locked by whoever has prepared, so nobody waits for long."""
        while client.prepared:
            client.finish_prepared()

    def check(self, db):
        rows = {id: (parent, state) for id, parent, state in db.execute("SELECT id, parent, state FROM child")}
        if rows != {id: row[1:] for id, row in self.children.items()}:
            yield f"children: {list(rows.items() ^ {id: row[1:] for id, row in self.children.items()}.items())[:5]}"
        under, regions = defaultdict(list), defaultdict(list)
        for parent, state in rows.values():
            under[parent].append(state)
        for id, region, state, finished in db.execute("SELECT id, region, state, finished IS NOT NULL FROM parent"):
            regions[region].append(state)
            if (state, finished) != (fold(under[id]), fold(under[id]) != "open"):
                yield f"parent {id} is {state}, finished {finished}, and has children {dict(Counter(under[id]))}"
        for id, state, finished in db.execute("SELECT id, state, finished IS NOT NULL FROM region"):
            if (state, finished) != (fold(regions[id]), fold(regions[id]) != "open"):
                yield f"region {id} is {state}, finished {finished}, and has parents {dict(Counter(regions[id]))}"

    def settle(self, db):
        db.execute("UPDATE child SET state = 'done'")
        self.children = {id: (owner, parent, "done") for id, (owner, parent, _) in self.children.items()}
        yield from self.check(db)
