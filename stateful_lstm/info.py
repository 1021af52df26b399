"""``info()``: the compiled backends and the machine's capabilities."""

from __future__ import annotations

import platform
from typing import Any

import torch

from ._version import __version__
from .backend import cuda, operators


def info() -> dict[str, Any]:
    """What is built and what the machine offers.

    Returns:
        A dict of

        * version, torch, python: version strings, of what runs now.
        * torch_cuda: the CUDA version that torch itself was built with, or None.
        * backends: name -> True, or the reason why it is not available.
        * quick_step: True if short inference goes past torch's dispatcher here, or the reason why
          it takes the longer way, to the same results.
        * cpu_capability: instruction set of the CPU kernels ("amx", "avx512bf16", "avx512", "avx2",
          "portable"), None if not built.
        * cpu_capabilities: all that this machine can run, the best first. The environment variable
          STATEFUL_LSTM_CPU may name any of them.
        * cpu_threads: how many threads the CPU kernels may use, ``torch.get_num_threads()``.
        * cuda_built: architectures that CUDA kernels were built for.
        * cuda_present: architectures of the GPUs present, one each.
        * cuda_kernels: for each GPU present, True if there are kernels for it, or why not.
        * cuda_plan: for each GPU present, which kernel some calls get there, and why: in a few
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
