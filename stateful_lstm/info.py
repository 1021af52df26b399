"""``info()``: the build and the machine."""

from __future__ import annotations

import platform
from typing import Any

import torch

from ._version import __version__
from .backend import cuda, operators


def info() -> dict[str, Any]:
    """Describes the build and the machine.

    Returns:
        A dict of

        * version, torch, python: version strings of this package, torch and Python.
        * torch_cuda: the CUDA version that torch was built with, or None.
        * backends: name -> True, or the reason why the backend is unavailable.
        * quick_step: True if short inference takes the fast path past torch's dispatcher, or the
          reason why it does not. The results are the same.
        * cpu_capability: instruction set of the CPU kernels ("amx", "avx512bf16", "avx512", "avx2",
          "portable"), None if not built.
        * cpu_capabilities: all instruction sets that this machine supports, the best first. The
          environment variable STATEFUL_LSTM_CPU selects one of them.
        * cpu_threads: the most threads that the CPU kernels use, ``torch.get_num_threads()``.
        * cuda_built: the architectures of the compiled CUDA kernels.
        * cuda_present: the architecture of each GPU present.
        * cuda_kernels: for each GPU present, True if kernels for it are built, or the reason why
          not.
        * cuda_plan: for each GPU present, the kernels of some calls, and the reason in a few
          words. For other calls and chips: ``python -m stateful_lstm plan --help``.
    """
    gpus = [torch.cuda.get_device_capability(k) for k in range(torch.cuda.device_count())]
    return {
        "version": __version__,
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "python": platform.python_version(),
        "backends": {
            "reference": True,
            "cpu": operators.missing or True,
            "cuda": cuda.unavailable() or True,
        },
        "quick_step": operators.fastpath_inference is not None or _no_quick_step(),
        "cpu_capability": operators.cpu_capability(),
        "cpu_capabilities": operators.cpu_capabilities(),
        "cpu_threads": torch.get_num_threads(),
        "cuda_built": [
            arch if arch.startswith("ptx") else f"sm_{arch}" for arch in cuda.built_for()
        ],
        "cuda_present": [f"sm_{major}{minor}" for major, minor in gpus],
        "cuda_kernels": {
            f"cuda:{k} {torch.cuda.get_device_name(k)}": cuda.missing()
            or cuda.unsupported(10 * major + minor)
            or True
            for k, (major, minor) in enumerate(gpus)
        },
        "cuda_plan": {
            name: {
                f"T=512, B={B}, H={H}, bfloat16": cuda.brief(
                    cuda.plan(512, B, H, device=device, dtype=torch.bfloat16)
                )
                for B, H in ((1, 128), (16, 512), (64, 1024))
            }
            for name, device in cuda.present().items()
        },
    }


def _no_quick_step() -> str:
    return operators.missing or f"torch {torch.__version__} does not offer DLPack's exchange table"
