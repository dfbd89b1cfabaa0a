"""The store: what was written to a record is in it, what was not is not, and each job completes once."""

from collections import defaultdict

from .client import Family


class Store(Family):
    name = "store"
    may = Family.may | {"JS001", "JS002", "JS003", "23514"}

    def __init__(self, stage):
        super().__init__(stage)
        self.created, self.deleted, self.mortal = set(), set(), set()
        self.log, self.sum = defaultdict(set), defaultdict(int)
        self.completed = set()
        self.steps = {self.create: 3, self.append: 6, self.begin: 6, self.swap: 2, self.delete: 0.5}

    def build(self, db):
        db.execute("SELECT jobstate.install('store')")
        db.execute("CREATE TABLE store_effect (id text)")

    def did_create(self, client, id, mortal):
        self.created.add(id)
        if mortal:
            self.mortal.add(id)

    def did_log(self, client, id, key, n):
        self.log[id].add(key)
        self.sum[id] += n

    def did_complete(self, client, id):
        self.completed.add(id)

    def did_delete(self, client, id):
        self.deleted.add(id)

    def known(self, client):
        with self.stage.lock:
            ids = sorted(self.created - self.deleted)[-40:]
        return client.random.choice(ids) if ids else None

    def create(self, client):
        mortal = client.chance(0.5)
        with client.transaction(may_prepare=True) as work:
            client.ask("SELECT jobstate.store_create(%s, '{\"status\": \"queued\", \"n\": 0}', %s)", work.key, "400 ms" if mortal else "1 day")
            work.did("create", work.key, mortal)
        while client.prepared:
            client.finish_prepared()

    def append(self, client, id=None, token=None):
        id = id or self.known(client)
        if not id:
            return
        with client.transaction() as work:
            n = client.random.randint(1, 5)
            client.ask("SELECT jobstate.store_append(%s, 'log', to_jsonb(%s::text), %s)", id, work.key, token)
            if client.chance(0.3):
                client.db.execute("SAVEPOINT s")
                client.ask("SELECT jobstate.store_incr(%s, 'n', 100)", id)
                client.db.execute("ROLLBACK TO s")
            client.ask("SELECT jobstate.store_incr(%s, 'n', %s)", id, n)
            work.did("log", id, work.key, n)

    def begin(self, client):
        id = self.known(client)
        if not id:
            return
        token = client.ask("SELECT token FROM jobstate.store_begin(%s, restart => false)", id)[0][0]
        client.ask("SELECT jobstate.store_update(%s, '{\"progress\": {\"percent_complete\": 50}}', %s)", id, token)
        self.append(client, id, token)
        if client.chance(0.5):
            return  # it dies here, and another attempt begins
        with client.transaction() as work:
            if client.chance(0.3):
                client.ask("SELECT jobstate.store_fail(%s, 'an error', token => %s)", id, token)
            else:
                client.ask("SELECT jobstate.store_complete(%s, '{}', token => %s)", id, token)
                client.db.execute("INSERT INTO store_effect VALUES (%s)", (id,))
                work.did("complete", id)

    def swap(self, client):
        id = self.known(client)
        if id:
            client.ask("SELECT jobstate.store_cas(%s, 'status', '\"preprocessing\"', '\"transcribing\"')", id)

    def delete(self, client):
        id = self.known(client)
        with client.transaction() as work:
            if client.ask("SELECT jobstate.store_delete(%s)", id or "none")[0][0]:
                work.did("delete", id)

    def check(self, db):
        effects = [id for id, in db.execute("SELECT id FROM store_effect")]
        if sorted(effects) != sorted(self.completed):
            yield f"completed: {len(effects)} effects, differ in {list(set(effects) ^ self.completed)[:5]}"
        total, = db.execute("SELECT sum(total)::bigint FROM jobstate.totals('jobstate.store')").fetchone()
        if (total or 0) != len(self.created) - len(self.deleted):
            yield f"{total} records live and rolled up, {len(self.created)} created, {len(self.deleted)} deleted"
        there = set()
        for id, status, record, over in db.execute("SELECT id, jobstate.store_status_name(state_id), fields, expires_at <= clock_timestamp() FROM jobstate.store"):
            there.add(id)
            if set(record.get("log") or ()) != self.log[id] or len(record.get("log") or ()) != len(self.log[id]) or record["n"] != self.sum[id]:
                yield f"record {id} says {record.get('log')}, {record['n']}, and not {self.log[id]}, {self.sum[id]}"
            if (status == "completed") != (id in self.completed):
                yield f"record {id} is {status}"
        wrong = (self.created - self.deleted - self.mortal - there) | (there - self.created) | (there & self.deleted)
        if wrong:
            yield f"records that are there and should not, or should and are not: {sorted(wrong)[:5]}"

    def settle(self, db):
        """Every record can be taken up and ended; then all expire."""
        for id, in db.execute("SELECT id FROM jobstate.store_records WHERE status <> 'completed'").fetchall():
            token, = db.execute("SELECT token FROM jobstate.store_begin(%s)", (id,)).fetchone()
            db.execute("SELECT jobstate.store_complete(%s, '{}', token => %s)", (id, token))
            db.execute("INSERT INTO store_effect VALUES (%s)", (id,))
            self.completed.add(id)
        yield from self.check(db)
        db.execute("UPDATE jobstate.store SET expires_at = clock_timestamp(), check_at = clock_timestamp()")
        while db.execute("SELECT jobstate.store_prune()").fetchone()[0]:
            pass
        self.mortal |= self.created
        if db.execute("SELECT count(*) FROM jobstate.store").fetchone()[0]:
            yield "records are left"
        yield from self.check(db)
