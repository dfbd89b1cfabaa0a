"""What the checks of the acts have in common."""


class Checker:
    """Each line that it prints says what was shown; a wrong one fails the demo."""

    def __init__(self, db):
        self.db = db
        self.failed = False

    def value(self, query, *arguments):
        return self.db.execute(query, arguments).fetchone()[0]

    def check(self, good, what):
        print("  ok    " if good else "  WRONG ", what)
        self.failed = self.failed or not good
