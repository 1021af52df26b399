"""The CUDA kernels from Python: availability, the kernel of a call, errors of slots."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import operators

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_CODES = {torch.float16: 5, torch.float32: 6, torch.float64: 7, torch.bfloat16: 15}  # ScalarType


class DeviceLimits(NamedTuple):
    """The properties of a GPU that decide which kernel a call gets.

    Compute capability times 10, SMs, bytes of shared memory a block, blocks of the largest cluster.
    """

    arch: int
    processors: int
    shared_bytes: int
    cluster_blocks: int


# One chip of each architecture, to plan for without a GPU.
KNOWN = {
    "T4": DeviceLimits(75, 40, 65536, 1),
    "A100": DeviceLimits(80, 108, 166912, 1),
    "RTX 3080": DeviceLimits(86, 68, 101376, 1),
    "RTX 4090": DeviceLimits(89, 128, 101376, 1),
    "H100": DeviceLimits(90, 132, 232448, 8),
    "B200": DeviceLimits(100, 148, 232448, 8),
    "RTX 5090": DeviceLimits(120, 170, 101376, 8),
}


def _operators() -> Any:
    return torch.ops.stateful_lstm


@cache
def built_for() -> list[str]:
    """The architectures that the kernels were built for: ["75", "80", "90a"]; [] without."""
    if operators.missing or not hasattr(_operators(), "cuda_built_for"):
        return []
    return [arch for arch in str(_operators().cuda_built_for()).split(",") if arch]


def missing() -> str | None:
    """None if the library has CUDA kernels, else the reason."""
    if operators.missing:
        return operators.missing
    if not built_for():
        return "the library was built without CUDA kernels: see README on building with nvcc"
    return None


def unavailable() -> str | None:
    """None if this machine has a GPU and the library kernels for CUDA, else the reason."""
    reason = missing()
    if reason is None and torch.version.cuda is None:
        reason = f"torch {torch.__version__} has no CUDA"
    if reason is None and not torch.cuda.is_available():
        reason = "torch finds no GPU"
    return reason


@cache
def unsupported(arch: int) -> str | None:
    """None if there are kernels for a GPU of this architecture (90 for sm_90), else the reason.

    A chip runs code built for its own major version and the same or an older minor version
    ("90a": that chip only). It compiles PTX ("ptx90") of its own or an older version.
    """
    built = built_for()
    for name in built:
        number = int(name.removeprefix("ptx").rstrip("af"))
        later = name.startswith("ptx")
        within = number // 10 == arch // 10 and name[-1] not in "af"
        if number == arch or (number < arch and (later or within)):
            return None
    chips = ", ".join("sm_" + name for name in built if not name.startswith("ptx"))
    return f"the kernels were built for {chips}, not for sm_{arch}"


def why_not(x: Tensor) -> str | None:
    """None if the CUDA kernels can run on this input, else the reason."""
    if x.device.type != "cuda":
        return f"the input is on {x.device}"
    reason, around = _why_not(x.device.index, x.dtype), operators.transform()
    if reason is None and around:
        reason = f"it does not run under {around}"
    return reason


def _why_not(device: int, dtype: torch.dtype) -> str | None:
    """The part of the answer that never changes."""
    reason = missing()
    if reason is None:
        major, minor = torch.cuda.get_device_capability(device)
        reason = unsupported(10 * major + minor)
    if reason is None and dtype not in DTYPES:
        reason = f"it has no kernels for {dtype}"
    return reason


def on_gpu(x: Tensor) -> bool:
    """Whether the CUDA kernels work on this tensor. The emulator's tests replace it."""
    return x.is_cuda


def tf32_allowed(x: Tensor) -> bool:
    """Whether a float32 product may use TF32: as torch's own setting for CUDA says."""
    return x.dtype == torch.float32 and on_gpu(x) and _matmul_allows_tf32()


def _matmul_allows_tf32() -> bool:
    return str(torch.backends.cuda.matmul.fp32_precision) == "tf32"


# torch.compile cannot trace these; it takes their answers as constants. (It recompiles by itself
# when TF32 is switched.) torch.compiler.assume_constant_result would take two seconds to import.
for _answer in (_why_not, _matmul_allows_tf32):
    vars(_answer)["_dynamo_marked_constant"] = True


def raise_slot_error(x: Tensor) -> None:
    """Raises the error in ``state_indices`` of an earlier call on this tensor's device, if any.

    An invalid slot is reported by a later call, since the kernels check the values and the host
    never waits for them. The rows in question were treated as padding.

    Raises:
        IndexError: for a slot that does not exist. ValueError: for a slot named twice.
    """
    if not on_gpu(x) or torch.compiler.is_compiling() or why_not(x):
        return
    error = int(_operators().cuda_slot_error(x.device.index or 0))
    if error:
        where = f"state_indices of an earlier call on {x.device}"
        if error == 1:
            raise IndexError(f"{where} named a slot that does not exist")
        raise ValueError(f"{where} named a slot twice: rows would race")


def plan(
    T: int,
    B: int,
    H: int,
    *,
    device: DeviceLimits,
    proj_size: int = 0,
    dtype: torch.dtype = torch.float32,
    tf32: bool = False,
    backward: bool = False,
) -> str:
    """The kernel of a layer's call of T steps and B rows on a device, and why no other fits.

    It is one long line of text; `brief` shortens it.

    Raises:
        RuntimeError: if the library has no CUDA kernels; the plan is compiled with them.
    """
    reason = missing()
    if reason:
        raise RuntimeError(f"no plan is available: {reason}")
    return str(
        _operators().cuda_plan(T, B, H, proj_size or H, _CODES[dtype], tf32, backward, *device)
    )


def brief(plan: str) -> str:
    """The kernel of a plan's text, its blocks, and why the kernel tried before it does not fit."""
    chosen, _, others = plan.partition("; before it ")
    blocks, threads = re.findall(r"\d+", chosen)[:2]
    kernel, variant = chosen.split(": ")[1].split(", ", 1)
    tensor = variant.startswith("Tensor")
    refused: dict[
        str, str
    ] = {}  # the first reason for each kernel, with tensor cores or without as this one
    for line in others.split("; ") if others else []:
        name, other = line.split(", ", 1)
        if name != kernel and other.startswith("Tensor") == tensor:
            refused.setdefault(name, other.split(": ", 1)[1])
    text = f"{kernel}, {'on' if tensor else 'without'} tensor cores, {blocks} block"
    text += f"{'s' * (blocks != '1')} of {threads} threads"
    if refused:
        name, reason = refused.popitem()
        text += f"; not {name}: {reason.partition(', ')[0]}"  # without the device's limit
    return text


def present() -> dict[str, DeviceLimits]:
    """The GPUs that torch sees, by name as "cuda:0 NVIDIA H100"; empty without CUDA kernels."""
    if missing():
        return {}
    return {
        f"cuda:{k} {torch.cuda.get_device_name(k)}": DeviceLimits(*_operators().cuda_device(k))
        for k in range(torch.cuda.device_count())
    }
