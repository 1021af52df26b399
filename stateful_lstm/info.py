"""``info()``: what is built, and what this machine offers."""

from __future__ import annotations

from typing import Any

import torch

from . import cuda, ops
from ._version import __version__


def info() -> dict[str, Any]:
    """What is built and what the machine offers.

    Returns:
        A dict of

        * version, torch: version strings.
        * backends: name -> True, or the reason why it cannot be had.
        * cpu_capability: instruction set of the CPU kernels ("avx512bf16", "avx512", "avx2",
          "portable"), None if not built.
        * cuda_built: architectures that CUDA kernels were built for.
        * cuda_present: architectures of the GPUs present, one each.
        * cuda_plan: for each GPU present, which kernel some calls get there, and why. For other
          calls and chips: ``python -m stateful_lstm plan --help``.
    """
    return {
        "version": __version__,
        "torch": torch.__version__,
        "backends": {
            "reference": True,
            "cpu": ops.missing or True,
            "cuda": cuda.unavailable() or True,
        },
        "cpu_capability": ops.cpu_capability(),
        "cuda_built": [
            arch if arch.startswith("ptx") else f"sm_{arch}" for arch in cuda.built_for()
        ],
        "cuda_present": [
            "sm_{}{}".format(*torch.cuda.get_device_capability(k))
            for k in range(torch.cuda.device_count())
        ],
        "cuda_plan": {
            name: {
                f"T=512, B={B}, H={H}, bfloat16": cuda.plan(
                    512, B, H, device=device, dtype=torch.bfloat16
                )
                for B, H in ((1, 128), (16, 512), (64, 1024))
            }
            for name, device in cuda.present().items()
        },
    }
