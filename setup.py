"""Builds the compiled library, stateful_lstm/_C.abi3.so. Everything else is in pyproject.toml.

It uses only LibTorch's stable ABI, DLPack's and Python's, so one build serves torch 2.11 and every
later version, and every Python from 3.10 on.

Environment:
    STATEFUL_LSTM_WERROR=1    compiler warnings in our own code are errors.
    STATEFUL_LSTM_SANITIZE=1  g++ adds checks of addresses and of undefined behaviour, for
                              `make test-sanitized`. Such a library loads under LD_PRELOAD only.
    MAX_JOBS=n                at most n compilers at once.
"""

import os
import sys
from glob import glob
from pathlib import Path

import setuptools

OLDEST_TORCH = (2, 11)

# A venv of Python 3.11 comes with 65, which fails later and says something else.
if int(setuptools.__version__.split(".")[0]) < 77:
    sys.exit(
        f"stateful_lstm: needs setuptools >= 77, found {setuptools.__version__}.\n"
        "Bring it up to date:  pip install --upgrade setuptools"
    )

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths
except ImportError as error:
    sys.exit(
        f"stateful_lstm: cannot import torch with {sys.executable} ({error}).\n"
        "It is built against the torch you will run it with, so install torch >= 2.11 first and\n"
        "tell pip to build with it:  pip install --no-build-isolation ."
    )

# "2.13.0+cpu" -> (2, 13). A suffix sits in the third part or later ("2.14.0a0+git123").
if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
    sys.exit(
        f"stateful_lstm: needs torch >= 2.11 (its stable C++ interface), found {torch.__version__}."
    )

# Sources must be relative for setuptools; include paths absolute, since ninja runs elsewhere.
root = Path(__file__).resolve().parent
os.chdir(root)
sources = sorted(glob("csrc/*.cpp") + glob("csrc/cpu/*.cpp"))
headers = sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.inl", recursive=True))

flags = [
    "-O3",
    "-g0",  # Python's own flags say -g, which makes the library many times larger
    "-std=c++17",
    "-fvisibility=hidden",
    # a * b + c as one instruction wherever the hardware has it, the same in every kernel.
    "-ffp-contract=fast",
    "-Wall",
    "-Wextra",
    # The stable ABI as of torch 2.11: nothing newer can be used by mistake.
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
]
# A directory named by -isystem and by -I counts as a system directory: no warnings from torch.
for path in include_paths():
    flags += ["-isystem", path]
if os.environ.get("STATEFUL_LSTM_WERROR") == "1":
    flags.append("-Werror")
sanitizers = []
if os.environ.get("STATEFUL_LSTM_SANITIZE") == "1":
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    # Optimized, or with the checks of addresses in line, the kernels would take minutes to compile.
    calls = ["--param", "asan-instrumentation-with-call-threshold=0"]
    # Python's own flags say -fwrapv, under which no sum of integers can overflow.
    flags += [*sanitizers, *calls, "-fno-wrapv", "-fno-omit-frame-pointer", "-O0", "-g1"]

setuptools.setup(
    ext_modules=[
        CppExtension(
            "stateful_lstm._C",
            sources,
            include_dirs=[str(root / "csrc")],
            depends=["setup.py", *headers],
            extra_compile_args=flags,
            extra_link_args=sanitizers,
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildExtension.with_options(use_ninja=True)},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
