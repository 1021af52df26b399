# From a fresh checkout `make demo` and `make test` set up all they need; `make help` lists more.
#
# PYTHON  the Python to start from, 3.10 or later
# VENV    where packages are installed. Empty (make test VENV=): use PYTHON as it is, no downloads
# TORCH   the torch to install, as pip names it
# ARGS    more arguments for pytest, the demo or the benchmarks
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
ARGS ?=

LIBRARY := stateful_lstm/_C.abi3.so
CPP := $(shell find csrc -name '*.cpp' -o -name '*.h')
FORMATTED := $(shell find csrc benchmarks tests -name '*.cu' -o -name '*.cpp' -o -name '*.h')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build cuda demo examples bench docs lint format clean
.PHONY: test test-all test-sets test-sanitized test-emulator test-ecosystem test-packages

help:         ## this list
	@sed -n 's/^\([a-z-]*\): .*## /  make \1@/p' $(MAKEFILE_LIST) | tr @ '\t' | expand -t 22

# The environment comes last: it changes the PATH, and gpu.mk looks for a Python on the machine's own.
include make/gpu.mk
include make/environment.mk

# ---------------------------------------------------------------- build

build: $(LIBRARY)  ## the compiled library, in place

# The folders are here so that a file added or removed counts as a change. --force, since setuptools
# would see neither; ninja still compiles only what changed.
$(LIBRARY): setup.py $(CPP) $(shell find csrc -type d) | $(ENVIRONMENT)
	"$(PY)" setup.py -q build_ext --inplace --force
	@touch $@

# The GPU's code of all kernels, for all chips; without nvcc it says so and is content.
cuda: | $(ENVIRONMENT)  ## compile the CUDA kernels, and look for spilled registers
	"$(PY)" tools/compile_cuda.py --check

# The library with sanitizers, in a copy of the package: the one in stateful_lstm/ is left alone.
SANITIZED := build/sanitized
SANITIZER := $(shell $(CXX) -print-file-name=libasan.so)

$(SANITIZED)/stateful_lstm/_C.abi3.so: setup.py $(CPP) $(shell find csrc -type d) | $(ENVIRONMENT)
	@case "$(SANITIZER)" in /*) test -e "$(SANITIZER)" ;; *) false ;; esac || { echo "make: $(CXX)" \
	    "has no AddressSanitizer (libasan): it comes with Debian's g++; elsewhere" \
	    "see libasan and libubsan" >&2; exit 1; }
	CXX="$(CXX)" STATEFUL_LSTM_SANITIZE=1 "$(PY)" setup.py -q build_ext --force \
	    --build-lib $(SANITIZED) --build-temp $(SANITIZED)/objects
	@touch $@

# ---------------------------------------------------------------- run

RUN := PYTHONPATH="$(CURDIR)" "$(PY)"

demo: build  ## train a character model and let it write
	$(RUN) examples/character_model.py $(ARGS)

test: build  ## the tests, without the slow ones: a few minutes
	"$(PY)" -m pytest -q -m "not slow" $(ARGS)

test-all: build  ## all tests
	"$(PY)" -m pytest -q $(ARGS)

# `make test` uses the first instruction set in the list, which the machine chooses by itself. Those
# without hardware are emulated; of them, tiles multiply bfloat16 in an order of their own.
test-sets: build  ## tests of the kernels with each other instruction set that the machine has
	@names=$$($(RUN) -c 'from stateful_lstm.backend import operators; print(*operators.cpu_capabilities()[1:])') && \
	    [ -n "$$names" ] && for name in $$names; do echo "== $$name"; \
	    only=; case $$name in tiles) only="-k bfloat16 tests/invariance";; esac; \
	    STATEFUL_LSTM_CPU=$$name "$(PY)" -m pytest -q $$only tests/kernels $(ARGS) || exit 1; done

# Leaks are not looked for: Python and torch have some. libstdc++ must be loaded first: Python does
# not link it, and libasan looks for it on loading; without it the first C++ exception ends the process.
SANITIZED_RUN = LD_PRELOAD="$(SANITIZER) $(shell $(CXX) -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    STATEFUL_LSTM_SANITIZE=1 "$(PY)" -m pytest -q -c ../../pyproject.toml -o pythonpath="../../tests ../../tests/helpers"
SANITIZED_TESTS := $(addprefix ../../tests/,operators kernels fastpath)
test-sanitized: $(SANITIZED)/stateful_lstm/_C.abi3.so  ## tests of the kernels with g++'s sanitizers
	@cp -r stateful_lstm/*.py stateful_lstm/backend $(SANITIZED)/stateful_lstm
	cd $(SANITIZED) && $(SANITIZED_RUN) -m "not unsanitized" $(SANITIZED_TESTS) $(ARGS)
	cd $(SANITIZED) && for name in portable pairs tiles; do STATEFUL_LSTM_CPU=$$name $(SANITIZED_RUN) \
	    $(SANITIZED_TESTS) $(ARGS) -k "sizes or projections or read_and_write" || exit 1; done

test-emulator: build  ## the CUDA kernels' source on the CPU, without a GPU
	EMULATOR_ALL=1 "$(PY)" -m pytest -q tests/cuda $(ARGS)

# Without a package its tests are skipped; pytest says which.
test-ecosystem: build $(ECOSYSTEM)  ## tests with Keras, Lightning, transformers, SB3-contrib, TensorBoard
	KERAS_BACKEND=torch "$(PY)" -m pytest -q -rs tests/ecosystem $(ARGS)

# OTHER_TORCH  another than the one that builds the wheel. It is downloaded for each Python that is
#              here, with CUDA's libraries (5 GB unpacked) unless pip finds one without them
OTHER_TORCH ?= torch==2.11.0
test-packages: $(ENVIRONMENT) $(PACKERS)  ## sdist and wheel, in clean environments of each Python
	"$(PY)" tests/packages/check.py --torch "$(OTHER_TORCH)" $(ARGS)

examples: build  ## every example, in its quick form; pictures go to build/examples
	@mkdir -p build/examples
	@for file in examples/[!_]*.py; do \
	    echo "== $$file"; \
	    MPLBACKEND=Agg $(RUN) "$$file" --quick --out build/examples || exit 1; \
	done

bench: build $(PEERS)  ## the benchmarks, beside nn.LSTM, ONNX Runtime and OpenVINO
	$(RUN) -m benchmarks.cpu.bench $(ARGS)

docs: $(ENVIRONMENT)  ## the pages, in build/docs; a warning is an error
	"$(PY)" -m sphinx -W --keep-going -q docs build/docs
	@echo "build/docs/index.html"

# ---------------------------------------------------------------- code

# g++ here only reads the code, which is quick; .ci/run builds with STATEFUL_LSTM_WERROR=1 as well.
lint: $(ENVIRONMENT)  ## style, types, compiler warnings
	"$(PY)" -m ruff check .
	"$(PY)" -m ruff format --check .
	"$(PY)" -m mypy
	clang-format --dry-run -Werror $(FORMATTED)
	$(CXX) -fsyntax-only -fvisibility=hidden -std=c++17 -Wall -Wextra -Werror -DTORCH_TARGET_VERSION=0x020b000000000000 \
	    -Icsrc $$("$(PY)" -c 'import sysconfig; \
	    from torch.utils.cpp_extension import include_paths as paths; \
	    print(*("-isystem" + p for p in (*paths(), sysconfig.get_paths()["include"])))') \
	    $(filter %.cpp,$(CPP))

format: $(ENVIRONMENT)  ## lay out the code as lint wants it
	"$(PY)" -m ruff check --fix-only --quiet .
	"$(PY)" -m ruff format .
	clang-format -i $(FORMATTED)

clean:        ## remove what was built (the environment stays; rm -rf .venv removes it)
	rm -rf build dist *.egg-info stateful_lstm/*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path "./.venv" -prune -o -name __pycache__ -type d -exec rm -rf {} +
