"""stateful_lstm.data, .training and .interop are attributes that are imported on first use."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest

import stateful_lstm

LATER = ("data", "interop", "training")


def run(code):
    """In a process of its own, where nothing has been imported before."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)


def test_each_is_there_after_the_import_of_the_package_and_not_before_it_is_used():
    run(
        "import sys, stateful_lstm\n"
        f"for name in {LATER}:\n"
        "    full = f'stateful_lstm.{name}'\n"
        "    assert full not in sys.modules and name in dir(stateful_lstm)\n"
        "    assert getattr(stateful_lstm, name) is sys.modules[full]\n"
        "    assert vars(stateful_lstm)[name] is sys.modules[full]\n"
    )


def test_a_star_takes_no_name_that_is_not_in_all():
    run(
        "import sys\n"
        "from stateful_lstm import *\n"
        f"assert not {{*{LATER}}} & {{*globals()}}\n"
        "assert 'stateful_lstm.training' not in sys.modules\n"
    )


def test_an_unknown_attribute_is_refused_by_name():
    assert not hasattr(stateful_lstm, "dta")
    with pytest.raises(AttributeError, match="module 'stateful_lstm' has no attribute 'dta'"):
        stateful_lstm.dta  # noqa: B018
    with pytest.raises(ImportError, match="'dta'"):
        from stateful_lstm import dta  # noqa: F401


def test_what_is_in_them_is_pickled_by_name():
    for found in (
        stateful_lstm.data.Window,
        stateful_lstm.data.bucket_by_length,
        stateful_lstm.training.Trainer,
        stateful_lstm.interop.to_keras,
    ):
        assert pickle.loads(pickle.dumps(found)) is found
