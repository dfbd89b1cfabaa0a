"""What a soak found: tables in Markdown, a plot, and whether it passed."""

import collections
import glob
import json
import os
import re
import statistics
import sys

import plot
from plain import TWINS
from sample import quantile

SLOWER = 1.10       # what a quarter may be above the first
SIZE_FACTOR = 1.10  # what the last quarter may be above the second, where vacuum is not needed

# Relations that are emptied by TRUNCATE, whatever snapshot is held, and those that hold settings.  Two may always take
# what their code lets them: the log what its segments hold before each wants to be folded, and what comes meanwhile; the
# base 16 pages, and 64 with an index, and as much again as lives, before a rewrite is worth it.
MAY = {"log segments": 8 * 64 * 8192 * 1.25, "counter base": (16 + 2 * 128) * 8192}
HOT = (
    ("log segments", r"jobstate\.segment_\d+"),
    ("counter base", r"jobstate\.base_\w+"),
    ("ring slots", r"jobstate\.job_\d+"),
    ("queue windows", r"jobstate\.queue_window"),
    ("queue settings", r"jobstate\.queue(_lane|_ring)?"),
)


class Run:
    """The samples and calls of a run, by slice."""

    def __init__(self, out):
        self.out = out
        with open(os.path.join(out, "samples.jsonl"), encoding="ascii") as file:
            self.samples = [json.loads(line) for line in file]
        self.n = len(self.samples)
        self.length = self.samples[0]["seconds"]
        self.verbs = collections.defaultdict(dict)   # (family, verb): slice: times
        self.bursts = collections.defaultdict(dict)  # family: slice: calls per second
        self.errors = collections.Counter()
        self.late = collections.Counter()
        for name in sorted(glob.glob(os.path.join(out, "calls-*.jsonl"))):
            family = os.path.basename(name).split("-")[1]
            if family != "end":
                self.read(name, family)
        with open(os.path.join(out, "final.json"), encoding="ascii") as file:
            self.final = json.load(file)
        self.warm = min(18, max(1, self.n // 12))    # slices that are not judged

    def read(self, name, family):
        with open(name, encoding="ascii") as file:
            for line in map(json.loads, file):
                n = line["slice"]
                for verb, times in line["times"].items():
                    self.verbs[family, verb].setdefault(n, []).extend(times)
                if line["burst"][0]:
                    self.bursts[family][n] = line["burst"][0] / line["burst"][1]
                self.errors.update({f"{family}: {what}": m for what, m in line["errors"].items()})
                self.late[family] += line["late"]

    def quarter(self, q):
        """Slices of a quarter, the first without the warm-up."""
        return range(max(self.warm, q * self.n // 4), (q + 1) * self.n // 4)

    def windows(self, slices):
        """A minute each, or what a short run has."""
        length = max(2, min(6, self.n // 16))
        slices = list(slices)
        return [slices[i:i + length] for i in range(0, len(slices) - length + 1, length)]

    def control(self, window, what):
        return statistics.median(self.samples[n]["control"][what] for n in window)


def relative(run, times, slices, q):
    """The median over the windows of a verb's quantile, in units of the control's."""
    name = "p50" if q == 0.5 else "p99"
    ratios = []
    for window in run.windows(slices):
        values = [v for n in window for v in times.get(n, ())]
        if len(values) >= 10:
            ratios.append(quantile(values, q) / run.control(window, name))
    return statistics.median(ratios) if ratios else None


def ratio(value, base):
    return value / base if value and base else None


def text(value, form="{:.2f}"):
    return "" if value is None else form.format(value)


def speeds(run):
    """Per verb: calls, microseconds, and later quarters to the first, for p50 and p99."""
    rows = []
    for (family, verb), times in sorted(run.verbs.items()):
        calls = sum(map(len, times.values()))
        first = [v for n in run.quarter(0) for v in times.get(n, ())]
        p = {q: [relative(run, times, run.quarter(k), q) for k in range(4)] for q in (0.5, 0.99)}
        rows.append({"family": family, "verb": verb, "calls": calls, "p50": quantile(first, 0.5), "p99": quantile(first, 0.99),
                     "p50s": [ratio(v, p[0.5][0]) for v in p[0.5][1:]], "p99s": [ratio(v, p[0.99][0]) for v in p[0.99][1:]]})
    twins = {(row["family"], row["verb"]): row for row in rows}
    for row in rows:
        row["twin"] = twins.get(TWINS.get((row["family"], row["verb"])))
    return rows


def bursts(run):
    """Per family: calls per second without a pause, to the control's updates per second, per quarter."""
    rows = []
    for family, rates in run.bursts.items():
        def median(q):
            found = [rates[n] / run.samples[n]["control"]["rate"] for n in run.quarter(q) if n in rates]
            return statistics.median(found) if found else None
        quarters = [median(q) for q in range(4)]
        rows.append((family, statistics.median(rates.values()), quarters, [ratio(v, quarters[0]) for v in quarters[1:]]))
    return rows


def group_of(name):
    for group, pattern in HOT:
        if re.fullmatch(pattern, name):
            return group
    return name.removeprefix("jobstate.")


def sizes(run):
    """Per group of relations and slice: bytes."""
    series = collections.defaultdict(lambda: [0] * run.n)
    for n, sample in enumerate(run.samples):
        for name, (table, index) in sample["sizes"].items():
            series[group_of(name)][n] += table + index
    return series


def judge_sizes(run, slack):
    """Rows (group, hot?, maxima per quarter in bytes, bound, grows?)."""
    hot = {group for group, _ in HOT}
    rows = []
    for group, values in sorted(sizes(run).items()):
        maxima = [max(values[n] for n in run.quarter(q)) for q in range(4)]
        if group in hot:
            bound, last = maxima[1] * SIZE_FACTOR + slack, max(maxima[2:])
            bound = max(bound, MAY.get(group, 0))
        else:
            # What a held snapshot keeps stays as free space; once vacuum may, nothing is added to that.
            end = run.quarter(3)
            settled = end[len(end) // 2:]
            bound = max(values[:settled[0]]) * 1.02 + slack
            last = max(values[n] for n in settled)
        rows.append((group, group in hot, maxima, bound, last > bound))
    return rows


def dead(run):
    """Per table: dead rows at the end of each quarter, and the most live ones."""
    series = collections.defaultdict(lambda: [(0, 0)] * run.n)
    for n, sample in enumerate(run.samples):
        for name, (live, gone) in sample["dead"].items():
            group = group_of(name)
            before = series[group][n] if series[group][n] else (0, 0)
            series[group][n] = (before[0] + (live or 0), before[1] + (gone or 0))
    return series


def unfolded(run):
    """Per slice: for how long the log's longest unemptied segment that holds rows has not been emptied, seconds."""
    since, ages = {}, []
    names = sorted({name for s in run.samples for name in s["sizes"] if re.fullmatch(HOT[0][1], name)})
    before = {}
    for n, sample in enumerate(run.samples):
        for name in names:
            size = sample["sizes"].get(name, [0, 0])[0]
            if size == 0 or size < before.get(name, 0):
                since[name] = n
            elif name not in since:
                since[name] = n
            before[name] = size
        ages.append(max([(n - since[name]) * run.length for name in names if before[name]] or [0]))
    return ages


def figures(run):
    """Per quarter: what the server as a whole does."""
    rows = []
    for q in range(4):
        span = run.quarter(q)
        first, last = run.samples[span[0]], run.samples[span[-1]]
        seconds = max(1, len(span) - 1) * run.length
        calls = sum(len(times.get(n, ())) for times in run.verbs.values() for n in span)
        memory = [kb for n in span for name, kb in run.samples[n]["memory"].items() if kb and name[5:].split()[0] != "collector"]
        rows.append({"calls/s": calls / (len(span) * run.length), "control p50 us": run.control(span, "p50"),
                     "control p99 us": run.control(span, "p99"), "control/s": run.control(span, "rate"),
                     "WAL kB/s": (last["wal"] - first["wal"]) / seconds / 1000,
                     "server CPU %": 100 * (last["cpu_server"] - first["cpu_server"]) / seconds,
                     "clients CPU %": 100 * (last["cpu_clients"] - first["cpu_clients"]) / seconds,
                     "files": max(run.samples[n]["files"] for n in span),
                     "WAL files": max(run.samples[n]["wal_files"] for n in span),
                     "largest backend kB": max(memory, default=0), "median backend kB": statistics.median(memory or [0]),
                     "unfolded log rows, most": max(run.samples[n]["metrics"].get("jobstate_log_rows", 0) for n in span),
                     "unfolded for s, most": max(unfolded(run)[n] for n in span)})
    return rows


def table(out, head, rows):
    print("| " + " | ".join(head) + " |", file=out)
    print("|---" + "|---:" * (len(head) - 1) + "|", file=out)
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", file=out)
    print(file=out)


def complaints(run, speed, size, quarters, burst, slack):
    """What did not pass: (hard, soft).  A soft one is a slowness, which another load on the machine brings too."""
    final, hard = run.final, []
    hard += [f"{n} clients failed" for n in [final["clients failed"]] if n]
    hard += [f"drift: {row}" for row in final["drift"]] + [f"miscounted: {row}" for row in final["miscounted"]]
    hard += [f"{n} {what}" for what, n in final["unsettled"].items() if isinstance(n, int)]
    hard += [f"the held snapshot: {final['snapshot']}"] if final["snapshot"] and not final["snapshot"]["right"] else []
    hard += [f"grows: {group}, {max(m[2:]) / 1e6:.1f} MB against {m[1] / 1e6:.1f} MB" for group, _, m, _, grows in size if grows]
    first, last = quarters[0]["largest backend kB"], quarters[3]["largest backend kB"]
    hard += [f"a backend grows: {first} to {last} kB"] if last > first * 1.25 + 2048 + slack / 1000 else []
    soft = []
    for row in speed:
        for what in ("p50s", "p99s"):
            plainly = row["twin"][what] if row["twin"] else [1.0] * 3
            if any(v and v > SLOWER * max(1.0, p or 1.0) for v, p in zip(row[what], plainly)):
                soft.append(f"{row['family']} {row['verb']} {what[:3]}: " + " ".join(text(v) for v in row[what])
                            + ("; plain SQL " + " ".join(text(v) for v in plainly) if row["twin"] else ""))
    soft += [f"{family} without a pause: " + " ".join(text(v) for v in later) for family, _, _, later in burst
             if any(v and v < 1 / SLOWER for v in later)]
    return hard, soft


def write(run, out, speed, size, quarters, burst, hard, soft):
    print(f"{run.final['version']}; {run.n * run.length / 60:.0f} minutes, the snapshot held from a quarter to three quarters; "
          f"{sum(row['calls'] for row in speed):,} calls at fixed rates\n", file=out)
    print("## The whole, per quarter\n", file=out)
    table(out, ["", "1st", "2nd (held)", "3rd (held)", "4th"],
          [[name] + [f"{q[name]:,.0f}" for q in quarters] for name in quarters[0]])
    print("## Families without a pause: calls per second, to the control's\n", file=out)
    table(out, ["family", "calls/s", "1st", "2nd/1st", "3rd/1st", "4th/1st"],
          [[family, f"{rate:,.0f}", text(q[0])] + [text(v) for v in later] for family, rate, q, later in burst])
    print("## Calls: microseconds in the first quarter, then each later quarter to the first, in units of the control\n", file=out)
    table(out, ["call", "calls", "p50", "p99", "p50 2nd", "3rd", "4th", "p99 2nd", "3rd", "4th", "plain SQL's p50 2nd", "3rd", "4th"],
          [[f"{r['family']}: {r['verb']}", f"{r['calls']:,}", text(r["p50"], "{:,}"), text(r["p99"], "{:,}")]
           + [text(v) for v in r["p50s"] + r["p99s"] + (r["twin"]["p50s"] if r["twin"] else [None] * 3)] for r in speed])
    print("## Sizes with indexes and toast, MB, most in each quarter\n", file=out)
    gone = dead(run)
    table(out, ["relation", "1st", "2nd", "3rd", "4th", "bound", "dead rows 1st", "2nd", "3rd", "4th", ""],
          [[group + (" (hot)" if hot else "")] + [f"{m / 1e6:.2f}" for m in maxima] + [f"{bound / 1e6:.2f}"]
           + [f"{max((gone[group][n][1] for n in run.quarter(q)), default=0):,}" if group in gone else "" for q in range(4)]
           + ["grows" if grows else ""] for group, hot, maxima, bound, grows in size])
    print("## Errors that a client expects\n", file=out)
    table(out, ["what", "how often"], sorted(run.errors.items()))
    print("## The end\n", file=out)
    for what, value in run.final.items():
        print(f"* {what}: {value}", file=out)
    warnings = collections.Counter(tuple(row[:3]) for s in run.samples for row in s.get("health", ()))
    print(f"* health() told meanwhile: {dict(warnings)}\n* calls that came late by a second: {dict(run.late)}\n", file=out)
    for what, which in (("Failed", hard), ("Slower than 10 %", soft)):
        print(f"## {what}: {len(which)}\n", file=out)
        print("".join(f"* {line}\n" for line in which), file=out)


def main(out, slack_mb=0.5):
    run = Run(out)
    slack = slack_mb * 1e6
    speed, size, quarters, burst = speeds(run), judge_sizes(run, slack), figures(run), bursts(run)
    hard, soft = complaints(run, speed, size, quarters, burst, slack)
    with open(os.path.join(out, "soak.md"), "w", encoding="ascii") as file:
        write(run, file, speed, size, quarters, burst, hard, soft)
    plot.write(run, sizes(run), dead(run), os.path.join(out, "soak.svg"))
    print(f"{run.n * run.length / 60:.1f} minutes, {sum(row['calls'] for row in speed):,} calls, {len(hard)} failures, {len(soft)} slower; see {out}/soak.md")
    for line in hard:
        print(f"  {line}")
    return 1 if hard else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
