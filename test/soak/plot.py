"""The plot of a soak, as SVG: small panels over the same minutes."""

import statistics
from xml.sax.saxutils import escape

from sample import quantile

WIDTH, HEIGHT, LEFT, GAP = 620, 170, 60, 52
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
FAMILIES = ("kernel", "derive", "queue", "uploads", "store", "ledger", "apply")


def smooth(values, length):
    """Medians over neighbours, gaps left out."""
    half = length // 2
    result = []
    for n in range(len(values)):
        near = [v for v in values[max(0, n - half):n + half + 1] if v is not None]
        result.append(statistics.median(near) if near else None)
    return result


def nice(top):
    """A round number not below."""
    step = 10.0 ** len(str(int(top))) / 100 if top >= 1 else 0.1
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50, 100):
        if step * factor >= top:
            return step * factor
    return top


def panel(x, y, title, series, minutes, held):
    """series: (name, values over the slices)."""
    values = [v for _, line in series for v in line if v is not None]
    top = nice(max(values + [0.1]))
    parts = [f'<g transform="translate({x},{y})"><text x="0" y="-8" font-weight="bold">{escape(title)}</text>']
    if held:
        begin, end = (WIDTH * t / minutes for t in held)
        parts.append(f'<rect x="{begin:.1f}" y="0" width="{end - begin:.1f}" height="{HEIGHT}" fill="#eeeeee"/>')
    for k in range(5):
        at = HEIGHT - HEIGHT * k / 4
        parts.append(f'<line x1="0" y1="{at}" x2="{WIDTH}" y2="{at}" stroke="#cccccc" stroke-width="0.5"/>'
                     f'<text x="-6" y="{at + 4}" text-anchor="end">{top * k / 4:g}</text>')
    for k in range(5):
        parts.append(f'<text x="{WIDTH * k / 4}" y="{HEIGHT + 14}" text-anchor="middle">{minutes * k / 4:.3g} min</text>')
    for n, (name, line) in enumerate(series):
        colour = COLOURS[n % len(COLOURS)]
        points = [f"{WIDTH * (i + 0.5) / len(line):.1f},{HEIGHT - HEIGHT * v / top:.1f}" for i, v in enumerate(line) if v is not None]
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.4" points="{" ".join(points)}"/>')
        parts.append(f'<text x="{4 + WIDTH * n // len(series)}" y="{HEIGHT + 30}" fill="{colour}">{escape(name)}</text>')
    return "".join(parts) + "</g>"


def latency(run, family, q):
    """Per slice: the median over the family's calls of each one's quantile, to the call's own median of the first quarter."""
    name = "p50" if q == 0.5 else "p99"
    verbs = []
    for (of, _), times in run.verbs.items():
        if of == family and sum(map(len, times.values())) > 2 * run.n:
            line = [quantile(times[n], q) / run.samples[n]["control"][name] if len(times.get(n, ())) > 1 else None for n in range(run.n)]
            first = [line[n] for n in run.quarter(0) if line[n]]
            if first:
                base = statistics.median(first)
                verbs.append([v / base if v else None for v in line])
    return smooth([statistics.mean(found) if (found := [v[n] for v in verbs if v[n]]) else None for n in range(run.n)], 7)


def burst(run, family):
    rates = run.bursts.get(family, {})
    line = [rates[n] / run.samples[n]["control"]["rate"] if n in rates else None for n in range(run.n)]
    first = [line[n] for n in run.quarter(0) if line[n]]
    base = statistics.median(first) if first else 1
    return smooth([v / base if v else None for v in line], 7)


def write(run, sizes, dead, path):
    families = [f for f in FAMILIES if f in run.bursts]
    mb = lambda name: [v / 1e6 for v in sizes.get(name, [0] * run.n)]
    tables = sorted((name for name in sizes if name in dead and "(hot)" not in name), key=lambda name: -max(sizes[name]))
    own = [name for name in tables if name not in ("ring slots", "log segments", "counter base", "queue windows")][:6]
    wal = [0] + [(b["wal"] - a["wal"]) / run.length / 1000 for a, b in zip(run.samples, run.samples[1:])]
    memory = [max([kb for kb in s["memory"].values() if kb] or [0]) / 1000 for s in run.samples]
    panels = [
        ("p50 of the calls, to the control's, first quarter = 1", [(f, latency(run, f, 0.5)) for f in families]),
        ("p99 of the calls, to the control's, first quarter = 1", [(f, latency(run, f, 0.99)) for f in families]),
        ("calls per second without a pause, to the control's, first quarter = 1", [(f, burst(run, f)) for f in families]),
        ("relations that are truncated, MB", [(name, mb(name)) for name in ("ring slots", "log segments", "counter base", "queue windows")]),
        ("the largest other tables, MB", [(name, mb(name)) for name in own]),
        ("their dead rows, thousands", [(name, [d / 1000 for _, d in dead[name]]) for name in own]),
        ("control: p50 of a plain UPDATE, microseconds", [("p50", [s["control"]["p50"] for s in run.samples])]),
        ("the server", [("WAL, 100 kB/s", [v / 100 for v in smooth(wal, 5)]), ("largest backend, MB", memory)]),
    ]
    minutes = run.n * run.length / 60
    held = [n * run.length / 60 for n, s in enumerate(run.samples) if s["held"]]
    held = (held[0], held[-1] + run.length / 60) if held else None
    rows = (len(panels) + 1) // 2
    width, height = 2 * (WIDTH + LEFT + 30), rows * (HEIGHT + GAP + 20) + 40
    with open(path, "w", encoding="ascii") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
                   f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>')
        for n, (title, series) in enumerate(panels):
            x = LEFT + n % 2 * (WIDTH + LEFT + 20)
            file.write(panel(x, 30 + n // 2 * (HEIGHT + GAP + 20), title, series, minutes, held) + "\n")
        file.write("</svg>\n")
