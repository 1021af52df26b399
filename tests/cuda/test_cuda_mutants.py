"""Every barrier, wait and flag of the CUDA kernels is needed: tests notice if one is missing.

Two of them here; all with EMULATOR_ALL=1, as in `make test-emulator`.
"""

import os
import sys

import pytest
from emulator import build, counts, mutate

KERNELS = [
    path for path in sorted((build.ROOT / "csrc/cuda").glob("**/*.h")) if path.stem != "device"
]
COMMAND = [sys.executable, "tests/emulator/smoke_kernels.py"]
# Within a cluster, across the device: the first of each. Each compiles for twenty seconds.
SOME = {"exchange.h: cluster_wait", "exchange.h: store_release"}


@pytest.mark.slow
def test_a_kernel_without_one_of_its_synchronisations_is_found_out():
    if reason := build.lacking("tsan"):
        pytest.skip(reason)
    left = set(SOME)

    def wanted(mutant):
        name = f"{mutant.file.name}: {mutant.old.partition('(')[0]}"
        if name not in left:
            return False
        left.remove(name)
        return True

    everything = "EMULATOR_ALL" in os.environ
    results = mutate.run(KERNELS, COMMAND, (lambda mutant: True) if everything else wanted)
    counts.mutants += [bool(fault) for _, fault in results]
    assert len(results) >= len(SOME)
    assert not [str(mutant) for mutant, fault in results if not fault]
