"""Builds the compiled library, stateful_lstm/_C.abi3.so. Everything else is in pyproject.toml.

It uses only LibTorch's stable ABI, DLPack's and Python's, so one build serves torch 2.11 and every
later version, and every Python from 3.10 on.

Environment:
    STATEFUL_LSTM_WERROR=1    compiler warnings in our own code are errors.
    STATEFUL_LSTM_SANITIZE=1  g++ adds checks of addresses and of undefined behaviour, for
                              `make test-sanitized`. Such a library loads under LD_PRELOAD only.
    MAX_JOBS=n                at most n compilers at once.

CUDA kernels are built where nvcc is found and torch has CUDA; that takes no GPU.
    FORCE_CPU=1               without them.
    FORCE_CUDA=1              with them, whatever torch says; an error without nvcc.
    STATEFUL_LSTM_CUDA_ARCH=80,90a
                              for these architectures only; tools/compile_cuda.py has the list.
    STATEFUL_LSTM_CUDA_OBJECTS=folder
                              links the kernels' objects from there: compile.py made them, here
                              or elsewhere, since they know nothing of torch.
"""

import os
import re
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
sys.path.insert(0, str(root / "tools"))
import compile_cuda as kernels  # noqa: E402


def wants_cuda() -> bool:
    """Whether the CUDA kernels are built along."""
    if os.environ.get("FORCE_CPU") == "1":
        return False
    if os.environ.get("STATEFUL_LSTM_CUDA_OBJECTS") or os.environ.get("FORCE_CUDA") == "1":
        return True
    return torch.version.cuda is not None and kernels.nvcc() is not None


def cuda_objects() -> list[str]:
    """The CUDA kernels and what they run on, for the linker."""
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
    """Compiles the CUDA kernels first: here, since metadata and a source archive need none."""

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
    # Short loops in one line of the cache of decoded instructions, wherever code lands.
    "-falign-functions=64",
    "-falign-loops=64",
    "-g0",  # Python's own flags say -g, which makes the library many times larger
    "-std=c++17",
    "-fvisibility=hidden",
    # a * b + c as one instruction wherever the hardware has it, the same in every kernel.
    "-ffp-contract=fast",
    f"-ffile-prefix-map={root}{os.sep}=",  # an error names csrc/..., not a folder of this machine
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
    # No test of this machine could run kernels that it has no instructions for.
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
