"""``info()`` and ``python -m stateful_lstm``: backends, the machine, and reasons."""

import json
import platform
import subprocess
import sys

import pytest
import torch

import stateful_lstm
from stateful_lstm.__main__ import main
from stateful_lstm.backend import cuda, operators


@pytest.fixture
def two_gpus(monkeypatch):
    """Kernels for sm_80 and sm_90a, and a machine with an A100 and a T4."""
    capabilities, names = [(8, 0), (7, 5)], ["NVIDIA A100", "Tesla T4"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda k: capabilities[k])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda k: names[k])
    monkeypatch.setattr(cuda, "built_for", lambda: ["80", "90a", "ptx90"])
    monkeypatch.setattr(cuda, "missing", lambda: None)
    monkeypatch.setattr(cuda, "present", dict)  # the plan is the compiled library's
    cuda.unsupported.cache_clear()
    yield
    cuda.unsupported.cache_clear()


def test_it_says_what_runs_here():
    info = stateful_lstm.info()
    assert info["version"] == stateful_lstm.__version__
    assert info["torch"] == torch.__version__ and info["torch_cuda"] == torch.version.cuda
    assert info["python"] == platform.python_version()
    assert info["backends"]["cpu"] is True and info["quick_step"] is True
    assert info["cpu_capability"] in info["cpu_capabilities"]
    assert "portable" in info["cpu_capabilities"]


def test_it_says_how_many_threads(one_thread):
    assert stateful_lstm.info()["cpu_threads"] == 1


def test_the_command_prints_all_of_it():
    """In a process of its own, as a user has it; one instruction set is chosen there."""
    portable = {"STATEFUL_LSTM_CPU": "portable", "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-W", "error", "-m", "stateful_lstm"]
    done = subprocess.run(command, env=portable, capture_output=True, text=True, check=True)
    said, here = json.loads(done.stdout), stateful_lstm.info()
    assert said.keys() == here.keys()
    assert said["cpu_capability"] == "portable"
    assert said["cpu_capabilities"] == here["cpu_capabilities"]
    assert said["backends"] == here["backends"]


def test_the_command_prints_the_version(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"stateful_lstm {stateful_lstm.__version__}\n"


def test_a_plan_in_a_few_words():
    """The reason is of the kernel asked last, and of the same way to multiply."""
    head = "16 blocks of 256 threads, 82240 bytes of shared memory each: "
    assert cuda.brief(
        f"{head}persistent_grid, Simt<float, 1>; "
        "before it persistent_block, TensorBlock<float, 64>: no TF32; "
        "persistent_cluster, TensorCluster<float>: no TF32; "
        "persistent_block, Simt<float, 1>: H is above 128; "
        "persistent_cluster, Simt<float, 1>: no clusters of blocks; "
        "persistent_cluster, Simt<float, 4>: too few rows; "
        "persistent_grid, Simt<float, 2>: too few rows"
    ) == (
        "persistent_grid, without tensor cores, 16 blocks of 256 threads; "
        "not persistent_cluster: no clusters of blocks"
    )
    assert cuda.brief(f"{head.replace('16', '1', 1)}persistent_block, TensorBlock<Half, 64>") == (
        "persistent_block, on tensor cores, 1 block of 256 threads"
    )


def test_it_says_which_gpus_have_kernels(two_gpus):
    info = stateful_lstm.info()
    assert info["cuda_built"] == ["sm_80", "sm_90a", "ptx90"]
    assert info["cuda_present"] == ["sm_80", "sm_75"]
    assert info["cuda_kernels"] == {
        "cuda:0 NVIDIA A100": True,
        "cuda:1 Tesla T4": "the kernels were built for sm_80, sm_90a, not for sm_75",
    }


def test_gpus_without_kernels_are_named_too(two_gpus, monkeypatch):
    monkeypatch.setattr(cuda, "missing", lambda: "built without")
    kernels = stateful_lstm.info()["cuda_kernels"]
    assert kernels == {"cuda:0 NVIDIA A100": "built without", "cuda:1 Tesla T4": "built without"}


def test_it_says_why_there_is_no_library(monkeypatch):
    monkeypatch.setattr(operators, "missing", "not built")
    monkeypatch.setattr(operators, "fastpath_inference", None)
    cuda.built_for.cache_clear()
    info = stateful_lstm.info()
    cuda.built_for.cache_clear()
    assert info["backends"] == {"reference": True, "cpu": "not built", "cuda": "not built"}
    assert info["quick_step"] == "not built"
    assert info["cpu_capability"] is None and info["cpu_capabilities"] == []


def test_it_says_why_there_is_no_quick_step(monkeypatch):
    monkeypatch.setattr(operators, "fastpath_inference", None)
    info = stateful_lstm.info()
    assert info["backends"]["cpu"] is True
    assert info["quick_step"] == f"torch {torch.__version__} does not offer DLPack's exchange table"
