"""All public calls, where only torch, numpy and their requirements are installed.

python bare_environment.py FOLDER     prints the outcome of each call, as JSON
"""

import contextlib
import importlib
import importlib.metadata
import io
import json
import os
import re
import runpy
import sys
import traceback
from pathlib import Path


class Bare:
    """A finder that finds nothing of these packages."""

    def __init__(self, finder, hidden):
        self._finder, self._hidden = finder, hidden

    def find_spec(self, name, *args):
        if name.partition(".")[0] in self._hidden:
            return None
        return self._finder.find_spec(name, *args)

    def __getattr__(self, name):
        return getattr(self._finder, name)


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def needs(distribution, found):
    """Adds it and what it requires, at any depth, extras left out."""
    if distribution not in found:
        found.add(distribution)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for line in importlib.metadata.requires(distribution) or []:
                if "extra ==" not in line:
                    needs(normal(re.match(r"[\w.-]+", line)[0]), found)
    return found


def hide_all_but(distributions):
    """From here on nothing else that is installed can be imported."""
    kept = set()
    for distribution in distributions:
        needs(distribution, kept)
    packages = importlib.metadata.packages_distributions()
    hidden = {
        package for package, owners in packages.items() if not kept & set(map(normal, owners))
    } - {"stateful_lstm"}
    assert not hidden & {name.partition(".")[0] for name in sys.modules}, "imported already"
    sys.meta_path[:] = [Bare(finder, hidden) for finder in sys.meta_path]


def calls():
    """By their names: every public function and class, with the arguments it must have."""
    import torch

    import stateful_lstm as package
    from stateful_lstm import data, interop, training

    lstm = package.StatefulLSTM(3, 3)
    x = torch.randn(5, 2, 3)
    sequences = [torch.randn(n, 3) for n in (30, 9)]

    def trainer():
        model = package.StatefulLSTM(3, 3)
        made = training.Trainer(model, torch.optim.Adam(model.parameters()), torch.nn.MSELoss())
        windows = data.ContinuousBatches(sequences, 2, 5)
        made.fit(windows)
        made.update(next(iter(windows)))
        made.current_loss(), made.evaluate(windows), repr(made)
        made.save("checkpoint")
        made.load("checkpoint")

    def damaged():
        Path("damaged").write_text("")
        model = package.StatefulLSTM(3, 3)
        made = training.Trainer(model, torch.optim.SGD(model.parameters()), torch.nn.MSELoss())
        try:
            made.load("damaged")
        except training.CheckpointError:
            return
        raise AssertionError("it was loaded")

    def windows():
        batches = data.ContinuousBatches(sequences, 2, 5, shuffle=True)
        batches.load_state_dict(batches.state_dict())
        batches.set_epoch(2)
        list(torch.utils.data.DataLoader(batches, batch_size=None))

    def preserve():
        with package.preserve_state(lstm):
            lstm(x)

    def layer():
        made = package.StatefulLSTM(3, 4, 2)
        made(x)
        made.eval()(x[:1], state_indices=torch.tensor([1, 0]))
        made.reset_state()

    def state():
        made = lstm.new_state(2)
        made.write(made.read())
        made.reset()

    def command():
        sys.argv[1:] = []
        runpy.run_module("stateful_lstm", run_name="__main__")

    keras = [x.numpy() for x in (torch.randn(3, 16), torch.randn(4, 16), torch.randn(16))]
    return {
        "stateful_lstm.LSTMState": state,
        "stateful_lstm.StatefulLSTM": layer,
        "stateful_lstm.__version__": lambda: package.__version__ + "",
        "stateful_lstm.convert": lambda: package.convert(torch.nn.LSTM(3, 4)),
        "stateful_lstm.get_state": lambda: package.get_state(lstm),
        "stateful_lstm.info": package.info,
        "stateful_lstm.lstm": lambda: package.lstm(x, None, list(lstm.parameters())),
        "stateful_lstm.preserve_state": preserve,
        "stateful_lstm.reference": lambda: package.reference.lstm(x, None, list(lstm.parameters())),
        "stateful_lstm.reset_state": lambda: package.reset_state(lstm),
        "stateful_lstm.set_memory_budget": lambda: package.set_memory_budget(1 << 30),
        "stateful_lstm.set_state": lambda: package.set_state(lstm, package.get_state(lstm)),
        "stateful_lstm.data.ContinuousBatches": windows,
        "stateful_lstm.data.Window": lambda: data.Window.pad(sequences).to("cpu"),
        "stateful_lstm.data.bucket_by_length": lambda: list(data.bucket_by_length([3, 5, 4], 2)),
        "stateful_lstm.interop.export_onnx": lambda: interop.export_onnx(lstm, "lstm.onnx"),
        "stateful_lstm.interop.from_keras": lambda: interop.from_keras(keras),
        "stateful_lstm.interop.onnx_translations": interop.onnx_translations,
        "stateful_lstm.interop.to_keras": lambda: interop.to_keras(lstm),
        "stateful_lstm.training.CheckpointError": damaged,
        "stateful_lstm.training.Trainer": trainer,
        "python -m stateful_lstm": command,
        "import pytest": lambda: importlib.import_module("pytest"),
    }


def outcome(call):
    """None, or the error; and the files that it left."""
    error = None
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        try:
            call()
        except SystemExit as end:
            error = None if not end.code else f"SystemExit: {end.code}"
        except ImportError as missing:
            error = f"{type(missing).__name__}: {missing}"
        except Exception:
            error = traceback.format_exc()
    return {"error": error, "said": quiet.getvalue(), "files": sorted(os.listdir())}


def main(folder):
    hide_all_but(["torch", "numpy"])
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root), str(root / "tests/helpers")]
    from docs_support import name, python_blocks, run_block

    found = {}
    everything = [
        *calls().items(),
        *(
            (f"{name(path)}:{line}", lambda block=(path, line, source): run_block(*block))
            for path, line, source in python_blocks()
        ),
    ]
    for k, (each, call) in enumerate(everything):
        inside = Path(folder) / str(k)
        inside.mkdir()
        os.chdir(inside)
        found[each] = outcome(call)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
