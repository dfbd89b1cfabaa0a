"""What a client of the queue does: random verbs, alone and mixed in transactions, with a journal of what the server has
acknowledged. Which queues the verbs are for decides how rough they are: nobody but its workers touches "steady".
"""

import json
import random
import threading
import time
from collections import defaultdict

import psycopg

QUEUES = {
    "steady": {"lease": "10 min", "shards": 1},
    "wild": {"lease": "100 ms", "shards": 2, "max_attempts": 3, "backoff": "5 ms", "aging": "50 ms"},
    "mortal": {"lease": "200 ms", "max_attempts": 2, "backoff": "1 ms", "dead_letters": False},
    "limited": {"lease": "300 ms", "max_running": 7, "max_running_per_key": 2, "backoff": "1 ms"},
}
ROUGH = ("wild", "mortal", "limited")
ISOLATION = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
LATE = {"40001", "40P01", "55P03"}
REFUSED = {"JS001", "JS002", "JS003"}


class Failure(Exception):
    pass


class Gone(Exception):
    """The transaction cannot go on; nothing is wrong."""


class Stage:
    """What the clients share: connections, as a pooler in transaction mode hands them out, and what they know."""

    def __init__(self, dsn, connections):
        self.lock = threading.Lock()
        self.free = [psycopg.connect(dsn, autocommit=True, prepare_threshold=None) for _ in range(connections)]
        for db in self.free:
            db.execute("SET deadlock_timeout = '30ms'")
            db.execute("SET lock_timeout = '400ms'")
        self.ids = defaultdict(list)  # by queue
        self.prepared = []
        self.journal = []
        self.failures = []
        self.stop = threading.Event()
        self.truncates = False
        self.done = defaultdict(int)
        self.refused = defaultdict(int)

    def take(self, chance):
        with self.lock:
            return self.free.pop(chance.randrange(len(self.free)))

    def give(self, db):
        with self.lock:
            self.free.append(db)

    def fail(self, why):
        with self.lock:
            self.failures.append(str(why))
        self.stop.set()


class Client(threading.Thread):
    def __init__(self, stage, seed, until):
        super().__init__(name=f"client {seed}", daemon=True)
        self.stage, self.until = stage, until
        self.random = random.Random(seed)
        self.held = {}  # id: (token, queue), as far as committed
        self.old = []  # tokens of the past
        self.unnamed = 0

    def run(self):
        try:
            while time.monotonic() < self.until and not self.stage.stop.is_set():
                self.db = self.stage.take(self.random)
                try:
                    self.transaction()
                finally:
                    self.stage.give(self.db)
        except Failure as failure:
            self.stage.fail(f"{self.name}: {failure}")
        except Exception as error:
            self.stage.fail(f"{self.name}: {type(error).__name__}: {error}")

    # transactions

    def transaction(self):
        self.work, self.journal = dict(self.held), []
        self.removes = ""
        self.isolation = self.random.choice(ISOLATION)
        if self.random.random() < 0.15:
            self.finish_prepared()
        if self.random.random() < 0.4:
            self.isolation = ISOLATION[0]
            try:
                self.verb()
                self.commit()
            except Gone:
                pass
            return
        end = self.random.choices(("COMMIT", "ROLLBACK", "PREPARE"), (10, 3, 2))[0]
        slow = self.random.random() < 0.05
        try:
            self.db.execute(f"BEGIN ISOLATION LEVEL {self.isolation}")
            self.body(self.random.randint(1, 4), 1)
            if slow:
                # keeps low positions while others go on
                time.sleep(self.random.uniform(0.05, 0.4))
            self.end(end)
        except Gone:
            self.db.execute("ROLLBACK")

    def body(self, length, depth):
        for _ in range(length):
            if self.random.random() < 0.2 and depth < 4:
                self.block(depth)
            else:
                self.verb()

    def block(self, depth):
        kept, journal = dict(self.work), len(self.journal)
        keep = self.random.random() < 0.5
        self.db.execute(f"SAVEPOINT s{depth}")
        try:
            self.body(self.random.randint(1, 3), depth + 1)
        except Gone:
            keep = False
        self.db.execute(f"RELEASE s{depth}" if keep else f"ROLLBACK TO s{depth}")
        if not keep:
            self.work = kept
            del self.journal[journal:]

    def end(self, how):
        if how == "ROLLBACK":
            self.db.execute("ROLLBACK")
        elif how == "COMMIT":
            self.attempt("COMMIT", lambda: self.db.execute("COMMIT"))
            self.commit()
        else:
            with self.stage.lock:
                self.stage.done["PREPARE"] += 1
                gid = f"jobs_{self.stage.done['PREPARE']}"
            self.attempt("PREPARE", lambda: self.db.execute(f"PREPARE TRANSACTION '{gid}'"))
            with self.stage.lock:
                self.stage.prepared.append((gid, self.work, self.journal))
            # whoever finishes it gets what was claimed
            self.held = {id: held for id, held in self.held.items() if self.work.get(id) == held}

    def commit(self):
        lost = [(id, *held) for id, held in self.held.items() if id not in self.work]
        self.old = (self.old + lost)[-30:]
        self.held = self.work
        with self.stage.lock:
            self.stage.journal += self.journal
            for what, *rest in self.journal:
                if what == "enqueue":
                    self.stage.ids[rest[1]].append(rest[0])

    def finish_prepared(self):
        with self.stage.lock:
            if not self.stage.prepared:
                return
            gid, work, journal = self.stage.prepared.pop(0)
        if self.random.random() < 0.7:
            self.db.execute(f"COMMIT PREPARED '{gid}'")
            self.stage.journal += journal
            mine = {("claim", id, token): queue for id, (token, queue) in work.items()}
            self.held.update({id: (token, queue) for (_, id, token), queue in mine.items() if ("claim", id, token) in journal})
        else:
            self.db.execute(f"ROLLBACK PREPARED '{gid}'")
        self.work = dict(self.held)

    # statements

    def attempt(self, name, what):
        """Raises Gone after an error that is none, Failure after one that is."""
        with self.stage.lock:
            self.stage.done[name] += 1
        try:
            return what()
        except psycopg.Error as error:
            code = error.sqlstate
            with self.stage.lock:
                self.stage.refused[name, code] += 1
            late = code in LATE
            if code == "40001" and self.isolation == ISOLATION[0]:
                late = name in ("delete", "update")  # the server's own, for who meets a row on its way to another partition
            if not late and code not in REFUSED:
                raise Failure(f"{name} under {self.isolation}: {code} {error} {error.diag.context or ''}") from None
            if code in REFUSED and name == "steady":
                raise Failure(f"steady job refused under {self.isolation}: {error}") from None
            raise Gone from None

    def ask(self, name, sql, *arguments):
        return self.attempt(name, lambda: self.db.execute(sql, arguments).fetchall())

    def may_remove(self, how):
        """In one transaction rows are deleted or pruned, so that the history can tell which."""
        self.removes = self.removes or how
        return self.removes == how

    def verb(self):
        verbs = [(self.enqueue, 10), (self.enqueue_many, 6), (self.claim, 14), (self.finish_steady, 6), (self.finish, 14),
                 (self.stale, 2), (self.heartbeat, 2), (self.cancel, 2), (self.manage, 3), (self.everything, 0.5),
                 (self.by_hand, 1), (self.maintain, 4)]
        chosen = self.random.choices([verb for verb, _ in verbs], [weight for _, weight in verbs])[0]
        chosen()

    # enqueue

    def queue(self):
        return self.random.choices(tuple(QUEUES), (4, 4, 2, 3))[0]

    def key(self):
        return f"key {self.random.randrange(12)}" if self.random.random() < 0.25 else None

    def due(self):
        return f"now() + {self.random.choice((-1, 0.02, 0.3))} * interval '1 s'" if self.random.random() < 0.2 else "NULL::timestamptz"

    def limit_key(self):
        return self.random.choice((None, "a", "b", "c", "d"))

    def journal_enqueue(self, queue, rows):
        for id, duplicate in rows:
            if not duplicate:
                self.journal.append(("enqueue", id, queue))

    def enqueue(self):
        queue = self.queue()
        timeout = "150 ms" if queue == "wild" and self.random.random() < 0.1 else None
        rows = self.ask("enqueue", f"SELECT * FROM jobstate.enqueue(%s, 'one', %s, %s, {self.due()}, unique_key => %s, shard_key => %s,"
                        " limit_key => %s, timeout => %s)", queue, json.dumps({"by": self.name}), self.random.choice((1, 2, 2, 3, 4)),
                        self.key(), self.random.choice((None, "x", "y")), self.limit_key(), timeout)
        self.journal_enqueue(queue, rows)

    def enqueue_many(self):
        queue, n = self.queue(), self.random.choice((1, 3, 10, 40))
        of_each = lambda make: [make() for _ in range(n)]
        rows = self.ask("enqueue_many", "SELECT * FROM jobstate.enqueue_many(%s, %s::text[], %s::jsonb[], %s::int[],"
                        f" ARRAY[{', '.join(of_each(self.due))}], %s::text[], limit_keys => %s::text[])",
                        queue, ["many"] * n, of_each(lambda: "{}"), of_each(lambda: self.random.choice((1, 2, 3))),
                        of_each(self.key) if self.random.random() < 0.3 else None, of_each(self.limit_key))
        self.journal_enqueue(queue, rows)

    # attempts

    def claim(self):
        queue = self.queue()
        n = self.random.choice((1, 1, 2, 5, 20))
        lease = self.random.choice((None, "20 ms")) if queue != "steady" else None
        rows = self.ask("claim", "SELECT id, token, priority FROM jobstate.claim(%s, %s, %s, %s)",
                        queue, self.name, n, lease)
        for id, token, _ in rows:
            self.work[id] = (token, queue)
            self.journal.append(("claim", id, token))

    def some(self, wanted, most=20):
        ids = [id for id, (_, queue) in self.work.items() if wanted(queue)]
        self.random.shuffle(ids)
        return ids[:self.random.choice((1, 1, 5, most))]

    def finish_steady(self):
        """With a lease of ten minutes nothing may go wrong, except that the caller's snapshot is too old."""
        ids = self.some(lambda queue: queue == "steady")
        if not ids:
            return self.claim()
        name = "steady" if not self.stage.truncates else "complete"
        tokens = [self.work[id][0] for id in ids]
        if len(ids) == 1 and self.random.random() < 0.5:
            verb = self.random.choice(("complete(%s, %s, '{}')", "snooze(%s, %s, '10 ms')", "fail(%s, %s, 'an error', '10 ms')"))
            self.ask(name, f"SELECT jobstate.{verb}", ids[0], tokens[0])
            if verb.startswith("complete"):
                self.journal.append(("complete", ids[0], tokens[0]))
            done = ids
        else:
            done = [id for id, in self.ask(name, "SELECT jobstate.complete(%s::bigint[], %s::bigint[])", ids, tokens)]
            self.journal += [("complete", id, self.work[id][0]) for id in done]
        if len(done) < len(ids) and not self.stage.truncates:
            raise Failure(f"steady jobs {set(ids) - set(done)} not completed under {self.isolation}, {done} were")
        self.forget(ids)

    def forget(self, ids):
        for id in ids:
            self.work.pop(id, None)

    def finish(self):
        ids = self.some(lambda queue: queue != "steady")
        if not ids:
            return self.claim()
        tokens = [self.work[id][0] for id in ids]
        choice = self.random.random()
        if choice < 0.5:
            self.complete(ids, tokens)
        elif choice < 0.65 and len(ids) == 1:
            self.ask("fail", "SELECT jobstate.fail(%s, %s, 'an error', retryable => %s)", ids[0], tokens[0], self.random.random() < 0.8)
        elif choice < 0.8:
            self.ask("fail many", "SELECT * FROM jobstate.fail(%s::bigint[], %s::bigint[], %s::text[], %s::interval[])",
                     ids, tokens, ["an error"] * len(ids), ["10 ms"] * len(ids))
        elif choice < 0.9:
            self.ask("snooze", "SELECT * FROM jobstate.snooze(%s::bigint[], %s::bigint[], %s::interval[])", ids, tokens, ["5 ms"] * len(ids))
        elif choice < 0.95:
            self.ask("cancel by the worker", "SELECT jobstate.cancel(%s::bigint[], %s::bigint[])", ids, tokens)
        self.forget(ids)  # or it dies here

    def complete(self, ids, tokens):
        if len(ids) == 1 and self.random.random() < 0.5:
            self.ask("complete", "SELECT jobstate.complete(%s, %s)", ids[0], tokens[0])
            done = ids
        else:
            done = [id for id, in self.ask("complete", "SELECT jobstate.complete(%s::bigint[], %s::bigint[], %s::jsonb[])",
                                           ids, tokens, ["[1]"] * len(ids))]
        by_id = dict(zip(ids, tokens))
        self.journal += [("complete", id, by_id[id]) for id in done]

    def stale(self):
        """Tokens of the past, and tokens that never were."""
        if self.old:
            tokens = {id: token for id, token, _ in self.random.sample(self.old, min(3, len(self.old)))}
            self.complete(list(tokens), list(tokens.values()))
        if self.work:
            id = self.random.choice(list(self.work))
            if self.ask("a wrong token", "SELECT jobstate.complete(ARRAY[%s], ARRAY[12345])", id):
                raise Failure(f"job {id} was completed with a token that never was")
            if self.ask("a wrong token", "SELECT * FROM jobstate.fail(ARRAY[%s], ARRAY[12345], '{wrong}')", id):
                raise Failure(f"job {id} was failed with a token that never was")

    def heartbeat(self):
        ids = self.some(lambda queue: True)
        if ids:
            rows = self.ask("heartbeat", "SELECT id FROM jobstate.heartbeat(%s::bigint[], %s::bigint[])", ids, [self.work[id][0] for id in ids])
            missing = [id for id in set(ids) - {id for id, in rows} if self.work[id][1] == "steady"]
            if missing and not self.stage.truncates:
                raise Failure(f"steady jobs {missing} have lost their leases under {self.isolation}")

    # management

    def any_ids(self, n=4):
        ids = self.stage.ids[self.random.choice(ROUGH)]
        recent = ids[-200:]
        return self.random.sample(recent, min(n, len(recent)))

    def cancel(self):
        ids = self.any_ids()
        choice = self.random.random()
        if choice < 0.5:
            self.ask("cancel", "SELECT * FROM jobstate.cancel(%s::bigint[])", ids)
        elif choice < 0.75 and ids:
            self.ask("cancel one", "SELECT jobstate.cancel(%s)", ids[0])
        else:
            self.ask("cancel by key", "SELECT * FROM jobstate.cancel_unique('wild', %s)", f"key {self.random.randrange(12)}")

    def manage(self):
        name, sql = self.random.choice((
            ("retry", "SELECT jobstate.retry(%s::bigint[])"), ("dlq_move", "SELECT jobstate.dlq_move(%s::bigint[])"),
            ("dlq_retry", "SELECT jobstate.dlq_retry(%s::bigint[])"), ("dlq_purge", "SELECT jobstate.dlq_purge((%s::bigint[])[1:1])"),
            ("set_priority", f"SELECT jobstate.set_priority(%s::bigint[], {self.random.randint(1, 4)})"),
            ("move_queue", f"SELECT jobstate.move_queue(%s::bigint[], '{self.random.choice(ROUGH)}')")))
        self.ask(name, sql, self.any_ids(10))

    def everything(self):
        queue = self.random.choice(ROUGH)
        name = self.random.choice(("retry_all", "dlq_move_all", "dlq_retry_all", "discard", "cancel_all", "pause", "pause", "resume", "resume"))
        if name == "discard" and not self.may_remove("delete"):
            return
        if name == "pause" and self.random.random() < 0.5:
            return self.ask("resume", "SELECT jobstate.resume(%s)", queue)
        self.ask(name, f"SELECT jobstate.{name}(%s)", queue)
        if name == "pause" and self.isolation == ISOLATION[0] and self.ask("claim", "SELECT * FROM jobstate.claim(%s, 'nobody', 1)", queue):
            raise Failure(f"queue {queue} is paused and gives jobs")

    def by_hand(self):
        """What an operator may do with plain SQL."""
        if not self.may_remove("delete"):
            return
        if self.stage.truncates and self.random.random() < 0.1:
            return self.attempt("truncate", lambda: self.db.execute("TRUNCATE jobstate.job"))
        self.ask(*self.random.choice((
            ("delete", "DELETE FROM jobstate.job WHERE queue = 'wild' AND position %% 7 = %s RETURNING id"),
            ("update", "UPDATE jobstate.job SET payload = '{}' WHERE queue = 'mortal' AND position %% 5 = %s RETURNING id"),
            ("update", "UPDATE jobstate.job SET run_at = now() WHERE state_id = 3 AND position %% 5 = %s RETURNING id"),
            ("update", "UPDATE jobstate.job SET lease_until = now() WHERE queue <> 'steady' AND state_id = 2 AND position %% 5 = %s RETURNING id"),
            ("update", "UPDATE jobstate.job SET priority = 5 - priority WHERE queue = 'wild' AND state_id = 2 AND position %% 5 = %s RETURNING id"),
            ("update", "UPDATE jobstate.job SET state_id = 6, finished_at = now() WHERE queue = 'wild' AND state_id = 1 AND position %% 9 = %s RETURNING id"))),
            self.random.randrange(5))

    def maintain(self):
        pruning = ("SELECT * FROM jobstate.prune_slots(3)", "SELECT jobstate.queue_prune_kept()")
        sql = self.random.choice((
            "SELECT jobstate.promote()", "SELECT jobstate.promote('wild', 5)", "SELECT * FROM jobstate.rescue()",
            "SELECT jobstate.rotate()", *pruning, pruning[0], "SELECT jobstate.queue_sweep_keys()", "SELECT jobstate.fold()",
            "SELECT jobstate.next_due('wild')"))
        if sql not in pruning or self.may_remove("prune"):
            self.ask("prune" if sql in pruning else "maintain", sql)
