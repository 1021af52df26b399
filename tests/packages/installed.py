"""What must work in an environment with torch, numpy and the wheel alone, far from a checkout.

    python -I -W error installed.py     -I: nothing but what is installed can be imported

check.py runs it with no compiler on the PATH. Prints what it found, as JSON.
"""

import importlib
import importlib.metadata
import json
import pkgutil
import shutil
import sys
from pathlib import Path

import torch
from torch import nn

import stateful_lstm
from stateful_lstm import StatefulLSTM
from stateful_lstm.backend import operators


def modules() -> int:
    """Imports every module of the package; optional packages are absent here. Says how many."""
    found = list(pkgutil.walk_packages(stateful_lstm.__path__, "stateful_lstm."))
    for module in found:
        importlib.import_module(module.name)
    return len(found)


def equal_to_torch() -> None:
    """The same numbers as nn.LSTM, forward and backward."""
    theirs = nn.LSTM(5, 7, num_layers=2)
    ours = StatefulLSTM(5, 7, num_layers=2)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(12, 3, 5)
    expected, _ = theirs(x)
    found, _ = ours(x)
    torch.testing.assert_close(found, expected)
    expected.square().mean().backward()
    found.square().mean().backward()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad)


def state_goes_on() -> None:
    """Pieces equal the whole: calls of many steps, then single ones, which take the quick step."""
    lstm = StatefulLSTM(5, 7).eval()
    x = torch.randn(12, 3, 5)
    with torch.no_grad():
        whole, _ = lstm(x)
        lstm.reset_state()
        first, _ = lstm(x[:6])
        pieces = [first, *(lstm(step)[0] for step in x[6:].split(1))]
    torch.testing.assert_close(torch.cat(pieces), whole)


def quick_step_answers() -> bool:
    """Whether the step past the dispatcher is there, and takes a plain call."""
    if operators.fastpath_inference is None:
        return False
    answered = []
    inner = operators.fastpath_inference

    def watched(*args):
        answer = inner(*args)
        answered.append(answer is not None)
        return answer

    lstm = StatefulLSTM(5, 7).eval()
    lstm.allocate_state(3)
    operators.fastpath_inference = watched
    try:
        with torch.no_grad():
            lstm(torch.randn(1, 3, 5))
    finally:
        operators.fastpath_inference = inner
    return answered == [True]


def main() -> None:
    torch.manual_seed(20)
    place = Path(stateful_lstm.__file__).resolve()
    assert place.is_relative_to(Path(sys.prefix).resolve()), f"imported from {place}"
    compilers = [*filter(shutil.which, ("c++", "g++", "cc", "gcc", "clang", "nvcc"))]
    assert not compilers, f"compilers are on the PATH: {compilers}"
    about = importlib.metadata.metadata("stateful_lstm")
    versions = (about["Version"], stateful_lstm.__version__)
    assert len(set(versions)) == 1, f"the metadata and the package differ: {versions}"
    info = stateful_lstm.info()
    assert info["backends"]["cpu"] is True, info["backends"]["cpu"]
    count = modules()
    equal_to_torch()
    state_goes_on()
    quick = quick_step_answers()
    assert quick == (info["quick_step"] is True), f"{quick=}, but info() says {info['quick_step']}"
    print(json.dumps({"modules": count, "quick_step": info["quick_step"]}))


if __name__ == "__main__":
    main()
