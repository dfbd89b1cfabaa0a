"""The ledger and the schedule: a fact per item and content, one run at a time, one job per time."""

import time
from collections import Counter

import psycopg

from .client import Family, overdue, settled_by

LEFT = "SELECT count(*) FROM jobstate.ledger WHERE state NOT IN ('processed')"


class Ledger(Family):
    name = "ledger"
    may = Family.may | {"JS001", "JS002"}

    def __init__(self, stage):
        super().__init__(stage)
        self.facts, self.items, self.runs = set(), set(), 0
        self.jobs, self.own = set(), set()
        self.steps = {self.claim: 8, self.run_some: 2, self.due: 2, self.work: 3}

    def build(self, db):
        db.execute("SELECT jobstate.install('queue'), jobstate.install('ledger'), jobstate.install('schedule')")
        for processor in ("alone", "runs"):
            db.execute("SELECT jobstate.ledger_define(%s, '{\"lease\": \"400 ms\", \"max_failures\": 1000000, \"cap\": null, \"budget\": null}')", (processor,))
        db.execute("UPDATE jobstate.ledger_policy SET delay = '1 s' WHERE kind = 'run_retention'")
        db.execute("SELECT jobstate.queue_define('sched', '{\"lease\": \"400 ms\", \"max_attempts\": 10000, \"backoff\": \"1 ms\"}')")
        db.execute("""SELECT jobstate.schedule_define('tick', 'every 1s', 'sched', 'k'),
            jobstate.schedule_define('each', 'every 1s', 'sched', 'k', catch_up => '1 hour', last_run => now()),
            jobstate.schedule_define('own', 'every 1s', lease => '400 ms')""")
        db.execute("""CREATE TABLE fact (processor text, item text, content text);
            CREATE TABLE ran (name text, at timestamptz, job bigint)""")

    def did_fact(self, client, processor, item, content):
        self.items.add((processor, item))
        self.facts.add((processor, item, content))

    def did_run(self, client):
        self.runs += 1

    def did_ran(self, client, name, at, job):
        (self.jobs if job else self.own).add((name, at, job))

    # what clients do

    def candidates(self, client):
        """All items change from cycle to cycle, and not within one."""
        return [f"item {i}" for i in client.random.sample(range(60), client.random.randint(1, 6))], f"content {self.stage.cycle}"

    def claim(self, client):
        items, content = self.candidates(client)
        sql = "SELECT item, token FROM jobstate.ledger_take('alone', %s, fingerprints => %s, n => 4, lease => %s)"
        rows = client.ask(sql, items, [content] * len(items), None)
        if client.chance(0.3):
            # the leases end, and who comes next may be first with the mark
            rows = client.ask(sql, items, [content] * len(items), "20 ms")
            time.sleep(0.03)
            rows += client.ask(sql, items, [content] * len(items), None)
            client.random.shuffle(rows)
        for item, token in rows:
            if not client.chance(0.1):
                client.attempt(lambda client: self.process(client, "alone", item, content, token))

    def process(self, client, processor, item, content, token):
        if client.chance(0.1):
            return client.ask("SELECT jobstate.ledger_fail(%s, %s, 'an error', %s, '10 ms')", processor, item, token)
        if client.chance(0.05):
            return client.ask("SELECT jobstate.ledger_release(%s, %s, %s)", processor, item, token)
        if client.chance(0.1):
            client.ask("SELECT jobstate.ledger_heartbeat(%s, ARRAY[%s], %s)", processor, item, token)
        with client.transaction() as work:
            client.db.execute("INSERT INTO fact VALUES (%s, %s, %s)", (processor, item, content))
            client.ask("SELECT jobstate.ledger_mark(%s, %s, fingerprint => %s, token => %s)", processor, item, content, token)
            work.did("fact", processor, item, content)

    def run_some(self, client):
        hold = client.random.choice(("lease", "session"))
        with client.transaction("READ COMMITTED") as work:
            token, = client.ask("SELECT token FROM jobstate.ledger_begin_run('runs', %s, hold => %s)", client.name, hold)[0]
            work.did("run")
        items, content = self.candidates(client)
        rows = client.ask("SELECT item, token FROM jobstate.ledger_take('runs', %s, fingerprints => %s, run => %s)", items, [content] * len(items), token)
        for item, claimed in rows:
            self.process(client, "runs", item, content, claimed)
        if not client.chance(0.3):
            client.ask("SELECT jobstate.ledger_end_run('runs', %s)", token)

    def due(self, client):
        """Taken and on the record at once; then finished, or not."""
        with client.transaction() as work:
            taken = client.ask("SELECT name, token, last_run FROM jobstate.schedule_due(%s)", client.name)
            for name, _, at in taken:
                client.db.execute("INSERT INTO ran VALUES (%s, %s)", (name, at))
                work.did("ran", name, at, None)
        for name, token, _ in taken:
            if client.chance(0.7):
                client.ask("SELECT jobstate.schedule_finish(%s, %s)", name, token)

    def work(self, client):
        client.ask("SELECT * FROM jobstate.schedule_enqueue()")
        claimed = client.ask("SELECT id, token, payload ->> 'schedule', (payload ->> 'due_at')::timestamptz FROM jobstate.claim('sched', %s, 10)", client.name)
        for id, token, name, at in claimed:
            with client.transaction("READ COMMITTED") as work:
                if client.ask("SELECT jobstate.complete(ARRAY[%s], ARRAY[%s])", id, token):
                    client.db.execute("INSERT INTO ran VALUES (%s, %s, %s)", (name, at, id))
                    work.did("ran", name, at, id)

    # what must be

    def check(self, db):
        facts = db.execute("SELECT processor, item, content FROM fact").fetchall()
        if len(facts) != len(set(facts)) or set(facts) != self.facts:
            yield f"{len(facts)} facts, {len(set(facts))} different ones, {list(set(facts) ^ self.facts)[:5]} differ"
        newest = {}
        for processor, item, content in self.facts:
            newest[processor, item] = max(newest.get((processor, item), content), content, key=lambda content: int(content.split()[1]))
        for processor, item, fingerprint in db.execute("SELECT processor, item, fingerprint FROM jobstate.ledger WHERE state = 'processed'"):
            if newest.get((processor, item)) != fingerprint:
                yield f"{processor}/{item} is marked as {fingerprint}, and has {newest.get((processor, item))}"
        runs, = db.execute("SELECT sum(total)::bigint FROM jobstate.totals('jobstate.ledger_run')").fetchone()
        if (runs or 0) != self.runs:
            yield f"{runs} runs live and rolled up, {self.runs} begun"
        ran = db.execute("SELECT * FROM ran").fetchall()
        if set(ran) != self.jobs | self.own:
            yield f"what ran: {list(set(ran) ^ (self.jobs | self.own))[:5]} differ"
        for what in (Counter(row[:2] for row in ran), Counter(row[2] for row in ran if row[2])):
            if any(n > 1 for n in what.values()):
                yield f"ran twice: {[key for key, n in what.items() if n > 1][:5]}"
        yield from self.leases(db)

    def leases(self, db):
        rescue = "SELECT * FROM jobstate.ledger_rescue(); SELECT jobstate.ledger_expire(); SELECT * FROM jobstate.schedule_rescue()"
        for table in ("ledger", "schedule"):
            left = overdue(db, table, rescue)
            if left:
                yield f"{left} leases of {table} are over and nobody takes them back"

    def settle_some(self, db):
        client = self.stage.helper(self, db)
        rows = db.execute("SELECT processor, item FROM jobstate.ledger WHERE state <> 'processed'").fetchall()
        for processor in ("alone", "runs"):
            items, content = [row[1] for row in rows if row[0] == processor], f"content {self.stage.cycle}"
            taken = client.ask("SELECT item, token FROM jobstate.ledger_take(%s, %s, fingerprints => %s, n => 0)", processor, items, [content] * len(items))
            for item, token in taken:
                client.attempt(lambda client: self.process(client, processor, item, content, token))
        client.attempt(self.work)
        client.attempt(self.due)

    def settle(self, db):
        db.execute("SELECT pg_sleep(0.5)")
        left = settled_by(db, 1000, lambda: self.settle_some(db), LEFT)
        if left:
            yield f"{left} items cannot be processed"
        try:
            db.execute("SELECT jobstate.ledger_end_run('runs', token) FROM jobstate.ledger_begin_run('runs', 'last')")
            self.runs += 1
        except psycopg.errors.LockNotAvailable as error:
            yield f"the run is held for ever: {error}"
        db.execute("SELECT jobstate.schedule_pause(name) FROM jobstate.schedule")
        client = self.stage.helper(self, db)
        if settled_by(db, 1000, lambda: client.attempt(self.work), "SELECT count(*) FROM jobstate.job WHERE queue = 'sched' AND state_id IN (1, 2, 3)"):
            yield "jobs of schedules are left"
        times = sorted(at for name, at, _ in self.jobs if name == "each")
        if any((later - at).total_seconds() != 1 for at, later in zip(times, times[1:])):
            yield "a run that was to be made up is missing"
        yield from self.check(db)
