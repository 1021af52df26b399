"""Draws performance.svg, and prints the table of docs/performance.md, from benchmarks/results.

python docs/figures/performance.py [FILE]    (any format that matplotlib knows)
"""

import json
from pathlib import Path

from _drawing import INK, QUIET, RED, canvas, main, save

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
AHEAD = "#2a7f8e"
MACHINES = {"Zen 5": "cpu", "Zen 4": "cpu_zen4", "Xeon AMX": "cpu_amx", "Zen 3": "cpu_avx2"}
STEP = "T = B = 1, H = {}, {}, against ONNX Runtime"
TARGETS = {  # a row of the table: the name of its target in the files
    "training, float32": "training, float32, mean",
    "training, bfloat16": "training, bfloat16, mean",
    "sequence, float32": "sequence, inference, float32, mean",
    "sequence, bfloat16": "sequence, inference, bfloat16, mean",
    "one step, H = 64": STEP.format(64, "float32"),
    "one step, H = 256": STEP.format(256, "float32"),
    "one step, H = 512": STEP.format(512, "float32"),
    "one step, H = 1024": STEP.format(1024, "float32"),
}
BAR, LEFT, UNIT = 2.6, 2, 9.3  # a bar's height, the axis, the length of 1x
WIDTH, HEIGHT = 40, 70


def results(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def ratios(run):
    """The ratio of each row of the table, where the run has it."""
    got = {target["target"]: target["got"] for target in run["targets"]}
    return {row: got[target] for row, target in TARGETS.items() if target in got}


def losing(run):
    """Shape, dtype and ratio of each row that is slower than the best peer."""
    for row in run["rows"]:
        if row["ratio"] < 1:
            shape = row["shape"]
            name = "one step" if row["kind"] == "step" else f"T = {shape['T']}"
            layers = ", 2 layers" if shape["layers"] == 2 else ""
            yield f"{name}, B = {shape['B']}, H = {shape['H']}{layers}", row["ratio"]


def table():
    """The table of docs/performance.md."""
    columns = [ratios(results(name)) for name in MACHINES.values()]
    cells = [["", *MACHINES], ["---"] * (1 + len(MACHINES))]
    for row in TARGETS:
        found = [column.get(row) for column in columns]
        cells.append([row, *("" if ratio is None else f"{ratio:.2f}x" for ratio in found)])
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def draw(path):
    run = results(MACHINES["Zen 5"])
    fig, ax = canvas(WIDTH, HEIGHT)
    ax.text(LEFT, HEIGHT - 2.5, "Speed: 1x is the best peer", size=13.5, weight="bold", color=INK)
    y = HEIGHT - 6.2
    for title, rows in (("faster", ratios(run)), ("slower", losing(run))):
        ax.text(LEFT, y, title, size=10.5, style="italic", color=QUIET)
        for name, ratio in dict(rows).items():
            y -= 5.2
            colour = AHEAD if ratio >= 1 else RED
            ax.text(LEFT, y + BAR + 0.45, name, size=11, color=INK)
            ax.barh(y + BAR / 2, ratio * UNIT, BAR, LEFT, color=colour)
            ax.plot([LEFT + UNIT] * 2, [y - 0.4, y + BAR], color=INK, lw=1.5)
            where = {"va": "center", "size": 11, "weight": "bold", "color": colour}
            ax.text(LEFT + max(ratio, 1) * UNIT + 0.7, y + BAR / 2, f"{ratio:.2f}x", **where)
        y -= 3.2
    save(fig, path)


if __name__ == "__main__":
    print(table())
    main(draw, __file__)
