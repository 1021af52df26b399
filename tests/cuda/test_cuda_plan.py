"""Which CUDA kernel a call gets on which device: decided on the host, and tested without a GPU."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from emulator import sequence

# arch, SMs, bytes of shared memory a block may have, blocks of the largest cluster
DEVICES = {
    75: (75, 40, 65536, 1),
    80: (80, 108, 166912, 1),
    86: (86, 82, 101376, 1),
    89: (89, 128, 101376, 1),
    90: (90, 132, 232448, 8),
    100: (100, 148, 232448, 8),
    120: (120, 170, 101376, 8),
}
DTYPES = ["float32", "float64", "float16", "bfloat16"]


def plan(dtype, B, H, arch, *, T=64, P=None, tf32=False, backward=False):
    call = (T, B, H, P or H, tf32, backward)
    names = ("kernel", "variant", "blocks", "threads", "shared_bytes", "cluster", "cooperative")
    found = sequence.kernels().plan(dtype, call, DEVICES[arch])
    return dict(zip(names, found, strict=True))


def explain(dtype, B, H, arch, *, P=None):
    """Why this kernel: the end of the plan's text."""
    call = (64, B, H, P or H, False, False)
    return sequence.kernels().explain(dtype, call, DEVICES[arch]).split("each: ")[1]


@pytest.mark.parametrize("arch", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backward", [False, True])
def test_every_call_gets_a_kernel_that_fits_the_device(arch, dtype, backward):
    _, processors, shared_bytes, cluster = DEVICES[arch]
    for H in (1, 7, 64, 128, 129, 256, 512, 768, 1024, 2048, 5000, 20000):
        for B in (1, 16, 17, 64, 1000):
            for tf32 in (False, True):
                found = plan(dtype, B, H, arch, tf32=tf32, backward=backward)
                assert 0 < found["shared_bytes"] <= shared_bytes
                assert 1 <= found["cluster"] <= cluster
                assert found["threads"] in (128, 256, 512) and found["blocks"] > 0
                # Or its blocks, which wait for each other, would wait forever.
                assert found["cooperative"] == (found["kernel"] == "persistent_grid")
                if found["cooperative"]:
                    assert found["blocks"] <= processors
                if found["kernel"] == "persistent_cluster":  # compile_cuda.py leaves out the others
                    assert arch >= 90
                if found["cluster"] > 1:
                    assert found["blocks"] % found["cluster"] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensor_cores_are_used_where_they_are_and_where_they_may_be(dtype):
    for arch in DEVICES:
        for tf32 in (False, True):
            tensor = plan(dtype, 16, 256, arch, tf32=tf32)["variant"].startswith("Tensor")
            wanted = dtype in ("float16", "bfloat16") or (dtype == "float32" and tf32)
            assert tensor == (wanted and arch >= 80), (arch, tf32)


def test_each_regime_has_its_kernel():
    assert plan("float16", 16, 64, 90)["kernel"] == "persistent_block"
    assert plan("float16", 16, 256, 90)["kernel"] == "persistent_cluster"
    assert plan("float16", 16, 256, 80)["kernel"] == "persistent_grid"
    assert plan("float16", 16, 1024, 90)["kernel"] == "persistent_grid"
    assert plan("float16", 16, 8192, 90)["kernel"] == "per_step"
    assert plan("float16", 16, 64, 90, P=32)["kernel"] == "per_step"
    assert plan("float64", 16, 1024, 90)["kernel"] == "per_step"


@pytest.mark.parametrize(
    ("arch", "B", "H", "kernel", "blocks", "cluster"),
    [
        (90, 16, 128, "persistent_block", 1, 1),
        (90, 100, 128, "persistent_block", 7, 1),
        (90, 16, 256, "persistent_cluster", 8, 8),
        (90, 64, 256, "persistent_cluster", 32, 8),
        (80, 16, 256, "persistent_grid", 32, 1),
        (80, 16, 512, "persistent_grid", 64, 1),
        (90, 64, 512, "persistent_grid", 128, 1),  # of 16 units, for 16 rows
        (80, 64, 512, "persistent_grid", 64, 1),  # 128 blocks would be too many: tiles of 64 rows
        (90, 16, 1024, "persistent_grid", 128, 1),
        (80, 16, 1024, "persistent_grid", 64, 1),
        (90, 256, 512, "persistent_grid", 128, 1),  # of 16 units, for 64 rows
        (90, 16, 2048, "per_step", 32, 1),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_blocks_are_so_many_as_the_floors_are_reckoned_for(
    dtype, arch, B, H, kernel, blocks, cluster
):
    found = plan(dtype, B, H, arch)
    assert (found["kernel"], found["blocks"], found["cluster"]) == (kernel, blocks, cluster)


@pytest.mark.parametrize(
    ("dtype", "H", "arch", "forward", "backward"),
    [
        ("float32", 96, 80, "persistent_block", "persistent_grid"),
        ("bfloat16", 256, 120, "persistent_cluster", "persistent_grid"),
        ("bfloat16", 1200, 80, "per_step", "persistent_grid"),
    ],
)
def test_forward_and_backward_need_memory_of_their_own(dtype, H, arch, forward, backward):
    assert plan(dtype, 16, H, arch)["kernel"] == forward
    assert plan(dtype, 16, H, arch, backward=True)["kernel"] == backward


def test_the_plan_says_why():
    why = explain("float32", 16, 256, 80)
    assert why.startswith("persistent_grid, Simt<float, 1>; before it persistent_block")
    assert "bytes of shared memory" in why and "TF32 is not allowed" in why
    assert "persistent_cluster, Simt<float, 1>: the device has no clusters of blocks" in why
    assert "it takes no projection" in explain("float32", 16, 256, 80, P=8)
    few, many = (explain("float16", rows, 2048, 90) for rows in (16, 17))
    assert "too few rows for its tile" in few and "too few rows for its tile" not in many


def test_the_sanitizers_see_every_kernel_for_tensor_cores():
    folder = Path(__file__).parents[1] / "gpu"
    code = "import sanitize; print([(c.B, c.H) for c in sanitize.CASES if not c.proj])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    reached = {
        f"{direction}_{found['kernel']} {dtype} {found['variant']}"
        for B, H in ast.literal_eval(done.stdout)
        for dtype in ("float32", "float16", "bfloat16")
        for direction in ("forward", "backward")
        for found in [plan(dtype, B, H, 90, tf32=True, backward=direction == "backward")]
    }
    persistent = [n for n in sequence.kernels().names() if "Tensor" in n and "step" not in n]
    assert persistent and not set(persistent) - reached
