"""Reports of the benchmarks: rows marked ? count in no summary; figures."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS = sorted(BENCHMARKS.glob("results/*.png"))


@pytest.fixture
def modules():
    """The benchmarks' modules by name."""
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def row(modules, ratio, *, spread=0.1, others=0.0, **more):
    """A row whose peer takes `ratio` times as long as ours does."""
    timing, shape = modules("cpu.timing").Timing, modules("shapes").Shape(100, 1, 100, 100, 1)

    def times(middle):
        return timing(middle, middle * (1 - spread), middle * (1 + spread), 9)

    values = {"kind": "infer", "dtype": "float32", "floor": 0.5, "limit": "FLOP/s", "absent": {}}
    taken = {"ours": times(1.0), "peer": times(ratio)}
    return modules("cpu.report").Row(shape=shape, times=taken, others=others, **(values | more))


def test_the_summary_counts_rows_that_are_to_be_trusted(modules, capsys):
    report = modules("cpu.report")
    sure = [row(modules, 2.0), row(modules, 8.0)]
    unsure = [row(modules, 0.5, spread=0.3), row(modules, 100.0, others=0.2)]
    report.print_summary([*sure, *unsure])
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if "float32" in line)
    assert "float32 2 4.00x 8.00x 2.00x at" in " ".join(line.split())
    assert "not counted: 2 of 4 rows, marked ? above; 1 of them slower" in said


def test_a_group_without_a_row_to_trust_has_no_figures(modules, capsys):
    rows = [row(modules, 2.0, spread=0.3), row(modules, 2.0, dtype="bfloat16")]
    modules("cpu.report").print_summary(rows)
    said = capsys.readouterr().out.splitlines()
    assert next(line for line in said if "float32" in line).split()[-2:] == ["float32", "0"]
    assert "not counted: 1 of 2 rows" in said[-1]


def test_targets_are_of_rows_that_are_to_be_trusted(modules):
    report = modules("cpu.report")
    rows = [row(modules, 2.0), row(modules, 0.5, spread=0.3)]
    got = {t.text: t.got for t in report.targets(rows) if t.got is not None}
    assert got == {
        "sequence, inference, float32, mean": 2.0,
        "sequence, inference, float32, worst": 2.0,
    }
    assert {t.verdict for t in report.targets(rows[1:])} == {"no trusted row"}


def test_the_summary_of_a_gpu_counts_them_too(modules):
    report = modules("gpu.report")

    def gpu(ratio, **more):
        plain = row(modules, ratio, **more)
        return report.GpuRow(plain.kind, plain.dtype, plain.shape, plain.times)

    alone = gpu(1.0)
    del alone.times["peer"]  # nothing to compare: in neither count
    said = report.summary([gpu(2.0), gpu(0.5, spread=0.3), alone])
    assert said[1].split()[2:7] == ["float32", "1", "0", "2.00x", "2.00x"]
    assert said[-1].startswith("not counted: 1 of 2 rows, marked ? above; 1 of them slower")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_picture_shows_the_ratios_of_its_file(modules, path):
    pytest.importorskip("matplotlib")
    contents = json.loads(path.with_suffix(".json").read_text())
    rows = modules("cpu.plot").rows_of(contents)
    for shown, written in zip(rows, contents["rows"], strict=True):
        assert shown.ratio == pytest.approx(written["ratio"], abs=0.002)
        assert shown.best_peer == written["best peer"]


def test_the_losing_rows_are_named(modules):
    pytest.importorskip("matplotlib")
    plot, losing = modules("cpu.plot"), row(modules, 0.5)
    assert plot.losing_words([losing], 3) == [
        "slower in 1 of 3 (T, B, I, H, layers):",
        "0.50x  infer float32 100, 1, 100, 100, 1",
    ]
    assert plot.losing_words([], 3) == ["slower in none of 3"]
    assert plot.losing_words([losing] * 9, 10)[-1] == "and 3 more"


def test_the_command_draws_an_upright_picture_beside_the_file(modules, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    path = tmp_path / "run.json"
    path.write_bytes((BENCHMARKS / "results" / "cpu.json").read_bytes())
    monkeypatch.setattr("sys.argv", ["plot.py", str(path)])
    modules("cpu.plot").main()
    header = path.with_suffix(".png").read_bytes()[16:24]
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
    assert height > 1.5 * width
