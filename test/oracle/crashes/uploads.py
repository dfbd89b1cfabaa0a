"""Uploads: each is parsed once, merged once, and each commit is postprocessed once."""

import time
from collections import Counter

from .client import Family, settled_by

NOT_POSTPROCESSED = """SELECT count(*) FROM (SELECT DISTINCT repo_id, commit_sha FROM jobstate.upload) u
    WHERE NOT EXISTS (SELECT FROM upload_effect e WHERE (e.kind, e.repo, e.sha) = ('postprocessed', u.repo_id, u.commit_sha))"""


class Uploads(Family):
    name = "uploads"
    may = Family.may | {"JS001", "JS002", "JS003"}

    def __init__(self, stage):
        super().__init__(stage)
        self.created = {}  # id: repo, commit
        self.effects = {"parsed": set(), "merged": set(), "postprocessed": set()}
        self.steps = {self.create: 2, self.process: 10, self.sweep: 2, self.merge_any: 1}

    def build(self, db):
        db.execute("SELECT jobstate.install('uploads')")
        db.execute("""UPDATE jobstate.upload_follow_up SET delay = CASE kind WHEN 'sweep' THEN interval '200 ms' ELSE '600 ms' END
            WHERE kind <> 'continuation'; UPDATE jobstate.upload_error_code SET max_retries = 1000000""")
        db.execute("CREATE TABLE upload_effect (kind text, id bigint, repo bigint, sha text)")

    def did_create(self, client, repo, sha, ids):
        self.created.update({id: (repo, sha) for id in ids})

    def did_do(self, client, kind, whom):
        self.effects[kind].update(whom)

    # what clients do

    def open_commits(self):
        with self.stage.lock:
            return sorted({commit for id, commit in self.created.items() if id not in self.effects["merged"]} |
                          {commit for commit in self.created.values() if commit not in self.effects["postprocessed"]})

    def create(self, client):
        if len(self.open_commits()) > 8:
            return self.process(client)
        repo = client.random.randint(1, 3)
        with client.transaction() as work:
            sha = work.key
            ids = [client.ask("SELECT jobstate.upload_create(%s, %s)", repo, sha)[0][0] for _ in range(client.random.randint(1, 12))]
            work.did("create", repo, sha, ids)

    def process(self, client):
        commits = self.open_commits()
        if not commits:
            return self.create(client)
        commit = client.random.choice(commits)
        sql = "SELECT upload_id, token FROM jobstate.upload_take(%s, %s, 10, %s)"
        if client.chance(0.1):
            # the leases end, and who comes next may be first to finish
            taken = client.ask(sql, *commit, "20 ms")
            time.sleep(0.03)
            client.attempt(self.sweep)
            taken += client.ask(sql, *commit, "500 ms")
            client.random.shuffle(taken)
        else:
            taken = client.ask(sql, *commit, "500 ms")
        for id, token in taken:
            client.attempt(lambda client: self.parse(client, commit, id, token))

    def parse(self, client, commit, id, token):
        if client.chance(0.08):
            return  # it dies here
        if client.chance(0.05):
            client.ask("SELECT jobstate.upload_heartbeat(ARRAY[%s], %s, '500 ms')", id, token)
        if client.chance(0.05):
            client.ask("SELECT jobstate.upload_retry(%s, 'processing_timeout', '50 ms', %s)", id, token)
            return
        with client.transaction() as work:
            answer = client.ask("SELECT jobstate.upload_finish(%s, %s, %s)", id, client.chance(0.9), token)[0][0]
            client.db.execute("INSERT INTO upload_effect VALUES ('parsed', %s)", (id,))
            work.did("do", "parsed", [id])
        self.obey(client, answer, *commit)

    def obey(self, client, answer, repo, sha):
        while answer != "wait" and not client.chance(0.1):
            answer = self.merge(client, repo, sha) if answer == "merge" else self.postprocess(client, repo, sha)

    def merge(self, client, repo, sha):
        batch = client.ask("SELECT upload_id, token FROM jobstate.upload_take_for_merging(%s, %s, 5, '500 ms')", repo, sha)
        ids = [id for id, _ in batch]
        with client.transaction() as work:
            if batch:
                client.ask("SELECT jobstate.upload_mark_merged(%s::bigint[], %s)", ids, batch[0][1])
                client.db.execute("INSERT INTO upload_effect SELECT 'merged', unnest(%s::bigint[])", (ids,))
                work.did("do", "merged", ids)
            return client.ask("SELECT jobstate.upload_decide(%s, %s)", repo, sha)[0][0]

    def merge_any(self, client):
        commits = self.open_commits()
        if commits:
            self.obey(client, self.merge(client, *client.random.choice(commits)), *client.random.choice(commits))

    def postprocess(self, client, repo, sha):
        with client.transaction("READ COMMITTED") as work:
            if client.ask("SELECT jobstate.upload_postprocessed(%s, %s)", repo, sha)[0][0]:
                client.db.execute("INSERT INTO upload_effect VALUES ('postprocessed', NULL, %s, %s)", (repo, sha))
                work.did("do", "postprocessed", [(repo, sha)])
        return "wait"

    def sweep(self, client):
        for repo, sha, action in client.ask("SELECT repo_id, commit_sha, action FROM jobstate.upload_rescue()"):
            if action != "process":
                self.obey(client, action, repo, sha)

    # what must be

    def check(self, db):
        told = {kind: [] for kind in self.effects}
        for kind, id, repo, sha in db.execute("SELECT * FROM upload_effect"):
            told[kind].append(id or (repo, sha))
        for kind, whom in told.items():
            twice = [who for who, n in Counter(whom).items() if n > 1]
            if twice or set(whom) != self.effects[kind]:
                yield f"{kind}: twice {twice[:5]}, told and right differ in {list(set(whom) ^ self.effects[kind])[:5]}"
        total, = db.execute("SELECT coalesce(sum(total), 0)::bigint FROM jobstate.totals('jobstate.upload')").fetchone()
        if total != len(self.created):
            yield f"{total} uploads live and rolled up, {len(self.created)} created"
        for id, state in db.execute("SELECT id, state_id FROM jobstate.upload"):
            should = (id in self.effects["parsed"]) + (id in self.effects["merged"])
            if {1: 0, 2: 1, 3: 2, 6: 2}.get(state) != should:
                yield f"upload {id} is in state {state}, and had {should} of two steps"

    def settle_some(self, db):
        """All by one worker, who does what the sweep says."""
        client = self.stage.helper(self, db)
        client.attempt(self.process)
        client.attempt(self.sweep)

    def settle(self, db):
        left = settled_by(db, 3000, lambda: self.settle_some(db), NOT_POSTPROCESSED)
        if left:
            yield f"{left} commits are never postprocessed"
        yield from self.check(db)
        if db.execute("SELECT count(*) FROM jobstate.upload WHERE state_id IN (1, 2)").fetchone()[0]:
            yield "uploads are left"
