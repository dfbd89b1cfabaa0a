"""Whoever maintains: folds, prunes, rotates, sweeps and counts again, while all others work."""

from .client import Family

STEPS = {
    "CALL jobstate.maintain()": 4, "SELECT jobstate.fold()": 8, "CHECKPOINT": 0.5, "SELECT jobstate.rotate()": 2,
    "SELECT * FROM jobstate.prune_slots(2)": 3, "SELECT jobstate.promote()": 2, "SELECT * FROM jobstate.rescue()": 2,
    "SELECT jobstate.prune('item', '300 ms', 'touched', 2000)": 4, "SELECT jobstate.prune('thing', '300 ms', 'touched', 2000)": 4,
    "SELECT jobstate.prune('jobstate.upload', '30 s', 'updated_at')": 1, "SELECT jobstate.upload_forget()": 1,
    "SELECT jobstate.prune('jobstate.apply', '3 s', 'completed_at')": 1, "SELECT jobstate.store_prune()": 2,
    "SELECT jobstate.rebuild('thing')": 0.5, "SELECT jobstate.recount('item')": 0.5,
    "SELECT * FROM jobstate.ledger_rescue()": 1, "SELECT jobstate.apply_reap()": 1,
    "SELECT count(*) FROM jobstate.health(deep => true)": 0.5, "VACUUM jobstate.upload_scope": 0.5,
}


class Upkeep(Family):
    name = "upkeep"
    clients = 1
    may = Family.may | {"40P01"}

    def step(self, client):
        client.db.execute(self.choose(client, STEPS))
