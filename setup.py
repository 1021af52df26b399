"""Builds the compiled library, stateful_lstm/_C.abi3.so. Everything else is in pyproject.toml.

It uses only the stable ABIs of LibTorch, DLPack and Python. So one build serves torch 2.11 and
every later version, and every Python from 3.10 on.

Environment:
    STATEFUL_LSTM_WERROR=1    turns compiler warnings in our own code into errors.
    STATEFUL_LSTM_SANITIZE=1  g++ adds checks of addresses and of undefined behavior, for
                              `make test-sanitized`. Such a library loads only under LD_PRELOAD.
    MAX_JOBS=n                runs at most n compilers at once.

The CUDA kernels are built if nvcc is found and torch has CUDA. The build needs no GPU.
    FORCE_CPU=1               builds without the CUDA kernels.
    FORCE_CUDA=1              builds with them for any torch. A missing nvcc is an error.
    STATEFUL_LSTM_CUDA_ARCH=80,90a
                              builds for these architectures only; tools/compile_cuda.py has the
                              list.
    STATEFUL_LSTM_CUDA_OBJECTS=folder
                              links the kernels' objects in this folder. tools/compile_cuda.py
                              compiled them on any machine, since they do not depend on torch.
"""

import os
import re
import sys
from glob import glob
from pathlib import Path

import setuptools

OLDEST_TORCH = (2, 11)

# A venv of Python 3.11 comes with version 65, which fails later with an unrelated message.
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

# "2.13.0+cpu" -> (2, 13). A suffix is in the third part or later ("2.14.0a0+git123").
if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
    sys.exit(
        f"stateful_lstm: needs torch >= 2.11 (its stable C++ interface), found {torch.__version__}."
    )

# setuptools needs relative sources. Include paths are absolute, since ninja runs in another
# folder.
root = Path(__file__).resolve().parent
os.chdir(root)
sys.path.insert(0, str(root / "tools"))
import compile_cuda as kernels  # noqa: E402


def wants_cuda() -> bool:
    """Whether the build includes the CUDA kernels."""
    if os.environ.get("FORCE_CPU") == "1":
        return False
    if os.environ.get("STATEFUL_LSTM_CUDA_OBJECTS") or os.environ.get("FORCE_CUDA") == "1":
        return True
    return torch.version.cuda is not None and kernels.nvcc() is not None


def cuda_objects() -> list[str]:
    """The CUDA kernels and their runtime, as arguments of the linker."""
    given = os.environ.get("STATEFUL_LSTM_CUDA_OBJECTS")
    if given:
        objects = sorted(Path(given).glob("*.o"))
        if {path.stem for path in objects} != {path.stem for path in kernels.sources()}:
            sys.exit(
                f"stateful_lstm: {given} does not hold an object of each .cu file of csrc/cuda"
            )
    else:
        archs = os.environ.get("STATEFUL_LSTM_CUDA_ARCH")
        try:
            objects = kernels.compile(archs.split(",") if archs else kernels.ARCHITECTURES)
        except kernels.CompileError as error:
            sys.exit(f"stateful_lstm: the CUDA kernels cannot be built: {error}")
    runtime = kernels.runtime()
    if runtime is None:
        sys.exit("stateful_lstm: libcudart_static.a of the CUDA toolkit is not to be found")
    return [*map(str, objects), str(runtime), "-lrt", "-ldl", "-lpthread"]


class Build(BuildExtension):
    """Compiles the CUDA kernels first. Metadata and source archives do not reach this step."""

    def build_extensions(self) -> None:
        if cuda:
            self.extensions[0].extra_link_args += cuda_objects()
        super().build_extensions()


cuda = wants_cuda()
sources = sorted(
    source
    for source in glob("csrc/**/*.cpp", recursive=True)
    if cuda or source != "csrc/bindings/operators_cuda.cpp"
)
headers = sorted(glob("csrc/**/*.h", recursive=True))

flags = [
    "-O3",
    # Short loops fit in one line of the cache of decoded instructions, wherever the code is
    # placed.
    "-falign-functions=64",
    "-falign-loops=64",
    "-g0",  # Python's own flags contain -g, which makes the library many times larger
    "-std=c++17",
    "-fvisibility=hidden",
    # a * b + c is one instruction where the hardware has it, in every kernel alike.
    "-ffp-contract=fast",
    f"-ffile-prefix-map={root}{os.sep}=",  # errors name csrc/..., not a folder of this machine
    "-Wall",
    "-Wextra",
    # The stable ABI of torch 2.11. Newer functions cannot be used by mistake.
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
]
# A folder given by both -isystem and -I counts as a system folder, so torch causes no warnings.
for path in include_paths():
    flags += ["-isystem", path]
if os.environ.get("STATEFUL_LSTM_WERROR") == "1":
    flags.append("-Werror")
sanitizers = []
if os.environ.get("STATEFUL_LSTM_SANITIZE") == "1":
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    # With optimization, or with inline address checks, the kernels would take minutes to compile.
    calls = ["--param", "asan-instrumentation-with-call-threshold=0"]
    # Python's own flags contain -fwrapv, which hides overflows of integer sums.
    flags += [*sanitizers, *calls, "-fno-wrapv", "-fno-omit-frame-pointer", "-O0", "-g1"]
    # Kernels without hardware support cannot run in any test on this machine.
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and "avx512f" not in cpuinfo.read_text():
        flags.append("-DSTATEFUL_LSTM_WITHOUT_AVX512")
        sources = [source for source in sources if not re.search("isa/(avx512|amx)", source)]

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
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
