"""The queue: what is enqueued completes exactly once, together with the application's row."""

import time

from .client import Family, overdue, settled_by


class Queue(Family):
    name = "queue"
    clients = 3
    may = Family.may | {"JS001", "JS002", "JS003"}

    def __init__(self, stage):
        super().__init__(stage)
        self.enqueued, self.completed, self.cancelled = set(), set(), set()
        self.maybe = set()  # somebody asked to cancel them
        self.poisons = 0
        self.steps = {self.enqueue: 4, self.work: 14, self.late: 2, self.stale: 2, self.beat: 2, self.cancel: 0.5, self.poison: 0.2, self.victim: 1}

    def build(self, db):
        db.execute("SELECT jobstate.install('queue')")
        db.execute("""SELECT jobstate.queue_ring_define('{"slots": 12, "slot_jobs": 300, "slot_length": "300 ms", "retention": "1 s",
            "failed_retention": "1 h", "dead_letter_retention": "1 h"}'),
            jobstate.queue_define('work', '{"lease": "400 ms", "max_attempts": 10000, "backoff": "1 ms"}'),
            jobstate.queue_define('poison', '{"lease": "100 ms", "max_attempts": 3, "backoff": "1 ms"}')""")
        db.execute("CREATE TABLE effect (job bigint, token bigint)")

    def did_enqueue(self, client, ids):
        self.enqueued.update(ids)

    def did_complete(self, client, ids):
        self.completed.update(ids)

    def did_cancel(self, client, id, outcome):
        (self.cancelled if outcome == "cancelled" else self.maybe).add(id)

    def did_poison(self, client):
        self.poisons += 1

    def enqueue(self, client):
        if len(self.enqueued) - len(self.completed) > 300:
            return self.work(client)
        n = client.random.choice((1, 5, 20))
        due = "now() + interval '50 ms'" if client.chance(0.2) else "NULL"
        with client.transaction(may_prepare=True) as work:
            rows = client.ask(f"""SELECT id FROM jobstate.enqueue_many('work', array_fill('k'::text, ARRAY[%s]), array_fill('{{}}'::jsonb, ARRAY[%s]),
                run_ats => array_fill(({due})::timestamptz, ARRAY[%s]))""", n, n, n)
            work.did("enqueue", [id for id, in rows])
        while client.prepared:
            client.finish_prepared()

    def claim(self, client, n=None, lease=None):
        return client.ask("SELECT id, token FROM jobstate.claim('work', %s, %s, %s)", client.name, n or client.random.choice((1, 4, 10)), lease)

    def work(self, client):
        """The application's own row, the next job and the job's end commit together."""
        claimed = self.claim(client)
        if claimed and not client.chance(0.1):  # or it forgets its jobs
            self.complete(client, claimed)

    def stale(self, client):
        """One whose lease is over, and who comes before or after the next one."""
        claims = [self.claim(client, 4, "20 ms")]
        time.sleep(0.04)
        client.ask("SELECT * FROM jobstate.rescue()")
        time.sleep(0.005)
        client.ask("SELECT jobstate.promote()")
        claims.append(self.claim(client, 1000))
        client.random.shuffle(claims)
        for claimed in claims:
            self.complete(client, claimed)

    def complete(self, client, claimed):
        with client.transaction() as work:
            done = [id for id, in client.ask("SELECT jobstate.complete(%s::bigint[], %s::bigint[])",
                                             [id for id, _ in claimed], [token for _, token in claimed])]
            client.db.execute("INSERT INTO effect SELECT * FROM unnest(%s::bigint[], %s::bigint[])", (done, [dict(claimed)[id] for id in done]))
            work.did("complete", done)
            if client.chance(0.3):
                work.did("enqueue", [id for id, in client.ask("SELECT id FROM jobstate.enqueue('work', 'next')")])

    def late(self, client):
        """Says it after the lease may be over; fails it, or gives it back."""
        claimed = self.claim(client)
        time.sleep(client.random.choice((0, 0.5)))
        for id, token in claimed:
            with client.transaction("READ COMMITTED") as work:
                verb = client.random.choice(("fail(%s, %s, 'an error', '20 ms')", "snooze(%s, %s, '5 ms')"))
                outcome = client.ask(f"SELECT jobstate.{verb}", id, token)[0][0]
                if outcome == "cancelled":
                    work.did("cancel", id, outcome)

    def beat(self, client):
        claimed = self.claim(client)
        for id, token in claimed:
            client.ask("SELECT * FROM jobstate.heartbeat(%s, %s, '1 s')", id, token)

    def cancel(self, client):
        with self.stage.lock:
            waiting = sorted(self.enqueued - self.completed - self.cancelled)
        if waiting:
            id = client.random.choice(waiting)
            with client.transaction("READ COMMITTED") as work:
                work.did("cancel", id, client.ask("SELECT jobstate.cancel(%s)", id)[0][0])

    def poison(self, client):
        with client.transaction() as work:
            client.ask("SELECT jobstate.enqueue('poison', 'poison')")
            work.did("poison")

    def victim(self, client):
        """Dies of it, as far as the queue can see."""
        client.ask("SELECT id FROM jobstate.claim('poison', 'victim')")

    def check(self, db):
        effects = [job for job, in db.execute("SELECT job FROM effect")]
        twice = len(effects) - len(set(effects))
        if twice or set(effects) != self.completed:
            yield f"effects and completed jobs differ: {list(set(effects) ^ self.completed)[:5]}, {twice} twice"
        totals = dict(db.execute("SELECT state, sum(total)::bigint FROM jobstate.totals('jobstate.job') WHERE group_key ->> 'queue' = 'work' GROUP BY 1").fetchall())
        if totals.get("completed", 0) != len(self.completed):
            yield f"{totals} in total, completed {len(self.completed)}"
        if sum(totals.values()) != len(self.enqueued):
            yield f"{totals} in total, enqueued {len(self.enqueued)}"
        live = {id for id, in db.execute("SELECT id FROM jobstate.job WHERE queue = 'work' AND state_id IN (1, 2, 3)")}
        lost = self.enqueued - self.completed - self.cancelled - self.maybe - live
        if lost or live & (self.completed | self.cancelled):
            yield f"neither waiting nor at an end: {sorted(lost)[:5]}, at both: {sorted(live & (self.completed | self.cancelled))[:5]}"
        yield from self.find_hidden(db)

    def find_hidden(self, db):
        """Whoever comes fresh from a crash finds every available job."""
        db.execute("SELECT * FROM jobstate.rescue(); SELECT jobstate.promote()")
        left = overdue(db, "job", "SELECT * FROM jobstate.rescue(); SELECT jobstate.promote()", "state_id = 2")
        if left:
            yield f"{left} leases are over and nobody takes them back"
        with db.transaction(force_rollback=True):
            available = {id for id, in db.execute("SELECT id FROM jobstate.job WHERE queue = 'work' AND state_id = 1")}
            found = {id for id, in db.execute("SELECT id FROM jobstate.claim('work', 'nobody', 1000000)")}
        if not available <= found:
            yield f"{len(found)} of {len(available)} available jobs are found, not {sorted(available - found)[:5]}"

    def settle_some(self, db):
        with db.transaction():
            claimed = db.execute("SELECT id, token FROM jobstate.claim('work', 'last', 200)").fetchall()
            done = [id for id, in db.execute("SELECT jobstate.complete(%s::bigint[], %s::bigint[])",
                                             ([id for id, _ in claimed], [token for _, token in claimed]))]
            db.execute("INSERT INTO effect SELECT unnest(%s::bigint[])", (done,))
        self.completed.update(done)
        db.execute("SELECT jobstate.claim('poison', 'last victim')")
        db.execute("SELECT * FROM jobstate.rescue(); SELECT jobstate.promote()")

    def settle(self, db):
        left = settled_by(db, 2000, lambda: self.settle_some(db), "SELECT count(*) FROM jobstate.job WHERE queue IN ('work', 'poison') AND state_id IN (1, 2, 3)")
        if left:
            yield f"{left} jobs cannot be brought to an end"
        dead = db.execute("SELECT attempt, jsonb_array_length(errors) FROM jobstate.dead_letter WHERE queue = 'poison'").fetchall()
        if dead != [(3, 3)] * self.poisons:
            yield f"{self.poisons} poison jobs, dead letters: {dead}"
        yield from self.check(db)
