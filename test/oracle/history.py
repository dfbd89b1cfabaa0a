"""What really became of each job: the committed changes of the job table, in the order of commits, as the server's
logical decoding tells them. It knows nothing of jobstate, needs no trigger, and survives crashes.

Replaying them checks, change by change, what no sample of the table could show: every move is one of the machine's, only
a move to a new place makes a job available, a running job never changes its token, nothing completes twice, limits and
unique keys hold after every commit.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

SLOT = "jobstate_oracle"
AVAILABLE, RUNNING, DEFERRED, COMPLETED, FAILED, CANCELLED = range(1, 7)
LIVE = (AVAILABLE, RUNNING, DEFERRED)
MOVES = {(AVAILABLE, RUNNING), (AVAILABLE, CANCELLED), (RUNNING, COMPLETED), (RUNNING, FAILED), (RUNNING, CANCELLED),
         (RUNNING, DEFERRED), (DEFERRED, AVAILABLE), (DEFERRED, CANCELLED), (FAILED, DEFERRED), (CANCELLED, DEFERRED)}

CHANGES = f"""SELECT lsn - '0/0'::pg_lsn, data FROM pg_logical_slot_get_changes('{SLOT}', NULL, NULL, 'include-timestamp', 'off')
    WHERE data ~ '^(BEGIN|COMMIT)|^table [^:]*jobstate\\.(job|rollup|dead_letter)'"""
COLUMN = re.compile(r'"?(\w+)"?\[[^\]]*\]:(\'(?:[^\']|\'\')*\'|[^ ]+)')


@dataclass
class Row:
    id: int
    position: int
    state: int
    token: int
    attempt: int
    max_attempts: int
    queue: str
    priority: int
    limit_key: str
    unique_key: str
    part: str

    def group(self):
        return self.queue, self.priority, self.limit_key, self.state


def columns(text):
    return {name: None if value == "null" else value.strip("'") for name, value in COLUMN.findall(text)}


def read_row(text, part):
    c = columns(text)
    return Row(int(c["id"]), int(c["position"]), int(c["state_id"]), int(c["token"] or 0), int(c["attempt"]), int(c["max_attempts"]), c["queue"],
               int(c["priority"]), c["limit_key"], c["unique_key"], part)


class History:
    def __init__(self, max_running, max_running_per_key, unique_queues):
        self.max_running, self.max_per_key = max_running, max_running_per_key  # by queue
        self.unique_queues = unique_queues
        self.rows = {}  # by position: the table as it is
        self.dead = set()
        self.enqueued = set()
        self.positions = set()  # all that ever were
        self.claimed = {}  # (id, token): position, limit key and queue
        self.completed = {}  # id: token
        self.ended = set()  # (id, token): attempts that are over
        self.deleted = set()  # ids that somebody deleted
        self.pruned = Counter()  # by group
        self.pruned_ids = set()
        self.running = Counter()  # by queue, and by queue and limit key
        self.holders = Counter()  # live jobs by queue and unique key
        self.wrong = []
        self.shared = set()  # keys that two have
        self.trail = defaultdict(list)  # by id, to be read by people
        self.read_until = 0  # after a crash the slot may tell again what it has told

    def read(self, db):
        """Goes on to what is committed now."""
        db.execute("SELECT pg_logical_emit_message(true, 'oracle', 'now')")
        xact = None
        for lsn, data in db.execute(CHANGES).fetchall():
            if data.startswith("BEGIN"):
                xact = data[6:], []
            elif data.startswith("COMMIT"):
                if xact[1] and lsn > self.read_until:
                    self.replay(*xact)
                self.read_until = max(lsn, self.read_until)
            else:
                xact[1].append(data)
        return self.wrong

    def fail(self, xid, why, *what):
        self.wrong.append(f"transaction {xid}: {why}: {' -> '.join(map(str, what))}")
        for id in {row.id for row in what if isinstance(row, Row)}:
            self.wrong += [f"    {line}" for line in self.trail[id]]

    def trace(self, xid, row, what):
        self.trail[row.id].append(f"{xid} {what} {row}")

    # one transaction

    def replay(self, xid, changes):
        self.gone = {}  # by id: deleted, and not inserted again so far
        self.touched = set()  # dead letters that went
        self.truncated = set()  # jobs in what was truncated
        prunes = any(change.startswith("table jobstate.rollup:") for change in changes)
        for change in changes:
            table, what = change[6:].split(": ", 1)
            if table.startswith("jobstate.job") and not table.startswith("jobstate.job_number"):
                self.change_jobs(xid, table, what)
            elif table == "jobstate.dead_letter":
                self.change_dead(what)
        for row in self.gone.values():
            self.remove(xid, row, prunes)
        self.deleted |= {id for id in self.touched if id not in self.dead}
        self.check_commit(xid)

    def change_jobs(self, xid, table, what):
        if what.startswith("TRUNCATE"):
            for part in table.split(", "):
                for row in [row for row in self.rows.values() if row.part == part]:
                    self.truncated.add(row.id)
                    self.take_out(row)
            return
        kind, values = what.split(": ", 1)
        if kind == "DELETE":
            self.take_out(self.rows[int(columns(values)["position"])])
        elif kind == "INSERT":
            self.insert(xid, read_row(values, table))
        else:
            if values.startswith("old-key:"):
                self.fail(xid, "a row got another position in its place", values)
            new = read_row(values, table)
            old = self.rows[new.position]
            self.count(old, -1)
            self.rows[new.position] = new
            self.count(new, 1)
            self.trace(xid, new, "becomes")
            self.move(xid, old, new)

    def change_dead(self, what):
        kind, values = what.split(": ", 1)
        if kind == "INSERT":
            id = int(columns(values)["id"])
            self.dead.add(id)
            old = self.gone.pop(id, None)
            if old and old.state == RUNNING:
                self.ended.add((id, old.token))
        elif kind == "DELETE":
            id = int(columns(values)["id"])
            self.dead.discard(id)
            self.touched.add(id)

    def take_out(self, row):
        del self.rows[row.position]
        self.trace("", row, "leaves its place")
        self.count(row, -1)
        self.gone[row.id] = row

    def insert(self, xid, new):
        self.rows[new.position] = new
        self.trace(xid, new, "comes")
        self.count(new, 1)
        old = self.gone.pop(new.id, None)
        if old:
            self.move(xid, old, new)
        elif new.id in self.touched:
            self.touched.discard(new.id)
            if new.attempt:
                self.fail(xid, "a dead letter comes back without all its attempts", new)
        elif new.id in self.enqueued:
            self.fail(xid, "a job came out of nowhere", new)
        elif new.id != new.position:
            self.fail(xid, "a new job's id is not its position", new)
        if (not old or old.position != new.position) and new.position in self.positions:
            self.fail(xid, "a position was given twice", new)
        self.positions.add(new.position)
        self.enqueued.add(new.id)

    def move(self, xid, old, new):
        """One job, before and after."""
        if old.id != new.id:
            self.fail(xid, "a job changed its id", old, new)
        if old.state == RUNNING and new.state != RUNNING:
            self.ended.add((old.id, old.token))
        if old.state == new.state:
            if new.state == RUNNING and old.token != new.token:
                self.fail(xid, "a running job has got another token", old, new)
            return
        if (old.state, new.state) not in MOVES:
            self.fail(xid, "the machine has no such move", old, new)
        if old.state in (FAILED, CANCELLED) and new.attempt:
            self.fail(xid, "a job starts again without all its attempts", old, new)
        if new.state == AVAILABLE and old.position == new.position:
            self.fail(xid, "a job became available where it was before", old, new)
        if new.state == RUNNING:
            if not old.attempt + 1 == new.attempt <= new.max_attempts or (new.id, new.token) in self.claimed:
                self.fail(xid, "not a fresh attempt", old, new)
            self.claimed[new.id, new.token] = new.position, new.limit_key, new.queue
        if new.state == COMPLETED:
            if new.id in self.completed or old.token != new.token:
                self.fail(xid, "completed twice, or with another token", old, new)
            self.completed[new.id] = new.token

    def remove(self, xid, row, prunes):
        if row.state == RUNNING:
            self.ended.add((row.id, row.token))
        if row.state in LIVE and row.id in self.truncated and prunes:
            self.fail(xid, "a job that has not ended was pruned", row)
        elif row.state in LIVE or not prunes:
            self.deleted.add(row.id)
        else:
            self.pruned[row.group()] += 1
            self.pruned_ids.add(row.id)

    # what must hold after every commit

    def count(self, row, n):
        if row.state == RUNNING:
            for key in ((row.queue,), (row.queue, row.limit_key)):
                self.running[key] += n
        if row.unique_key and row.queue in self.unique_queues and row.state in LIVE:
            self.holders[row.queue, row.unique_key] += n

    def check_commit(self, xid):
        for queue, most in self.max_running.items():
            if self.running[queue,] > most:
                self.fail(xid, f"{self.running[queue,]} jobs of queue {queue} run")
        for queue, most in self.max_per_key.items():
            for key, n in self.running.items():
                if len(key) == 2 and key[0] == queue and key[1] is not None and n > most:
                    self.fail(xid, f"{n} jobs of {key} run")
        for key, n in self.holders.items():
            if n > 1 and key not in self.shared:
                self.shared.add(key)
                sharing = [row for row in self.rows.values() if (row.queue, row.unique_key) == key and row.state in LIVE]
                self.fail(xid, f"live jobs share the unique key {key}", *sharing)

    def groups(self):
        return Counter(row.group() for row in self.rows.values())
