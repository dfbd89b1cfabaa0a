"""Applies: each operation is one driver's at a time and completes once, and every apply comes to an end."""

import psycopg

from .client import Family, settled_by

UNSETTLED = "SELECT count(*) FROM jobstate.apply WHERE NOT jobstate.apply_is_settled(state)"


class Applies(Family):
    name = "applies"
    may = Family.may | {"JS001", "JS002", "JS003", "40P01"}  # a stop that meets a driver's write may end so

    def __init__(self, stage):
        super().__init__(stage)
        self.created, self.completed = set(), set()
        self.steps = {self.create: 2, self.drive: 10, self.control: 1.5}

    def build(self, db):
        db.execute("SELECT jobstate.install('apply')")
        db.execute("UPDATE jobstate.apply_policy SET quiet = '1 s', task_grace = '200 ms', max_retries = 1000000")
        db.execute("CREATE TABLE operation_effect (id bigint)")

    def did_create(self, client, id):
        self.created.add(id)

    def did_complete(self, client, id):
        self.completed.add(id)

    def create(self, client):
        deployments = client.random.sample(("us", "eu", "asia", "africa"), client.random.randint(1, 3))
        operations = [{"deployment": name, "on_failure": client.random.choice(("halt", "pause", "continue")),
                       "tasks": ["a", "b"][:client.random.randint(0, 2)]} for name in deployments]
        with client.transaction() as work:
            id, = client.ask("SELECT apply_id FROM jobstate.apply_create(%s, 'pg', 'test', %s, %s, %s)", f"base {client.random.randint(1, 6)}",
                             psycopg.types.json.Jsonb(operations), work.key, client.random.choice(("rolling", "barrier", "parallel")))[0]
            work.did("create", id)

    def claim(self, client):
        verb = client.random.choices(("operation_claim", "operation_claim_cutover"), (5, 1))[0]
        return client.ask(f"SELECT operation_id, token, state FROM jobstate.{verb}(%s, '500 ms')", client.name)

    def drive(self, client):
        for id, token, state in self.claim(client):
            if client.chance(0.1):
                return  # it dies here
            if client.chance(0.05):
                client.ask("SELECT jobstate.operation_release(%s, %s)", id, token)
                return
            requests = client.ask("SELECT requests FROM jobstate.operation_heartbeat(%s, %s, '500 ms')", id, token)[0][0] or ()
            if state == "running" and client.chance(0.3):
                client.ask("SELECT jobstate.operation_progress(%s, %s, 'checksumming', '{\"rows\": 1}')", id, token)
            for task, in client.ask("SELECT id FROM jobstate.task WHERE operation_id = %s", id):
                client.ask("SELECT jobstate.task_progress(%s, %s, 'completed')", task, token)
            self.end(client, id, token, requests)

    def end(self, client, id, token, requests):
        with client.transaction() as work:
            if {"stop", "cancel"} & set(requests):
                client.ask("SELECT jobstate.operation_stop(%s, %s)", id, token)
            elif client.chance(0.2):
                client.ask("SELECT jobstate.operation_fail(%s, %s, 'an error', %s, '20 ms')", id, token, client.chance(0.7))
            elif client.ask("SELECT jobstate.operation_complete(%s, %s)", id, token)[0][0]:
                client.db.execute("INSERT INTO operation_effect VALUES (%s)", (id,))
                work.did("complete", id)

    def control(self, client):
        with self.stage.lock:
            ids = sorted(self.created)[-12:]
        if ids:
            with client.transaction():
                client.ask(f"SELECT jobstate.apply_{client.random.choice(('stop', 'start', 'start', 'release', 'release', 'cancel'))}(%s)",
                           client.random.choice(ids))

    def check(self, db):
        effects = [id for id, in db.execute("SELECT id FROM operation_effect")]
        if sorted(effects) != sorted(self.completed):
            yield f"completed: {len(effects)} effects, differ in {list(set(effects) ^ self.completed)[:5]}"
        total, = db.execute("SELECT sum(total)::bigint FROM jobstate.totals('jobstate.apply')").fetchone()
        if (total or 0) != len(self.created):
            yield f"{total} applies live and rolled up, {len(self.created)} created"
        for id, state in db.execute("SELECT id, state FROM jobstate.operation"):
            if (state == "completed") != (id in self.completed):
                yield f"operation {id} is {state}"
        wrong = db.execute("""SELECT a.id, a.state, array_agg(o.state) FROM jobstate.apply a JOIN jobstate.operation o ON o.apply_id = a.id
            GROUP BY 1, 2 HAVING (a.state = 'completed') <> bool_and(o.state = 'completed')
            OR (a.state = 'failed') AND NOT bool_or(o.state = 'failed')""").fetchall()
        if wrong:
            yield f"applies are not what their operations are: {wrong[:3]}"

    def settle_some(self, db):
        client = self.stage.helper(self, db)
        for verb in ("start", "release"):
            for id, in db.execute("SELECT id FROM jobstate.apply WHERE NOT jobstate.apply_is_settled(state)").fetchall():
                client.attempt(lambda client: client.ask(f"SELECT jobstate.apply_{verb}(%s)", id))
        for _ in range(20):
            client.attempt(self.drive)
        self.rounds += 1
        if self.rounds == 100:
            # a failure under "halt" beside one that waits for its cutover rests until somebody cancels
            db.execute("SELECT jobstate.apply_cancel(id) FROM jobstate.apply WHERE NOT jobstate.apply_is_settled(state)")

    def settle(self, db):
        self.rounds = 0
        left = settled_by(db, 1000, lambda: self.settle_some(db), UNSETTLED)
        if left:
            yield f"{left} applies cannot be brought to an end: {db.execute('SELECT id, state, reason FROM jobstate.apply WHERE NOT jobstate.apply_is_settled(state)').fetchall()[:3]}"
        yield from self.check(db)
