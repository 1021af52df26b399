# From a fresh checkout, `make demo` and `make test` set up everything they need. `make help` lists
# all targets.
#
# PYTHON  the Python to start from, 3.10 or later
# VENV    the folder of installed packages. If empty (make test VENV=), PYTHON is used as is, without downloads
# TORCH   the torch to install, as pip names it
# ARGS    additional arguments for pytest, the demo or the benchmarks
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

# The environment comes last: it changes the PATH, and gpu.mk must find the machine's own Python.
include make/gpu.mk
include make/environment.mk

# ---------------------------------------------------------------- build

build: $(LIBRARY)  ## the compiled library, in place

# The folders are prerequisites so that an added or removed file counts as a change. setuptools
# sees neither, hence --force. ninja still compiles only the changed files.
$(LIBRARY): setup.py $(CPP) $(shell find csrc -type d) | $(ENVIRONMENT)
	"$(PY)" setup.py -q build_ext --inplace --force
	@touch $@

# Machine code of all kernels for all GPUs. Without nvcc the target prints a message and succeeds.
cuda: | $(ENVIRONMENT)  ## compile the CUDA kernels, and look for spilled registers
	"$(PY)" tools/compile_cuda.py --check

# The library with sanitizers, in a copy of the package. The library in stateful_lstm/ is not
# changed.
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

# `make test` uses the first instruction set of the list, which is the machine's default. Sets
# without hardware are emulated. Of these, tiles multiply bfloat16 in their own order.
test-sets: build  ## tests of the kernels with each other instruction set that the machine has
	@names=$$($(RUN) -c 'from stateful_lstm.backend import operators; print(*operators.cpu_capabilities()[1:])') && \
	    [ -n "$$names" ] && for name in $$names; do echo "== $$name"; \
	    only=; case $$name in tiles) only="-k bfloat16 tests/invariance";; esac; \
	    STATEFUL_LSTM_CPU=$$name "$(PY)" -m pytest -q $$only tests/kernels $(ARGS) || exit 1; done

# Leak checks are off, since Python and torch leak. libstdc++ must be loaded first: Python does not
# link it, and libasan looks for it when it loads. Without it, the first C++ exception ends the
# process.
SANITIZED_RUN = LD_PRELOAD="$(SANITIZER) $(shell $(CXX) -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    STATEFUL_LSTM_SANITIZE=1 "$(PY)" -m pytest -q -c ../../pyproject.toml -o pythonpath="tests tests/helpers"
SANITIZED_TESTS := $(addprefix ../../tests/,operators kernels fastpath)
test-sanitized: $(SANITIZED)/stateful_lstm/_C.abi3.so  ## tests of the kernels with g++'s sanitizers
	@cp -r stateful_lstm/*.py stateful_lstm/backend $(SANITIZED)/stateful_lstm
	cd $(SANITIZED) && $(SANITIZED_RUN) -m "not unsanitized" $(SANITIZED_TESTS) $(ARGS)
	cd $(SANITIZED) && for name in portable pairs tiles; do STATEFUL_LSTM_CPU=$$name $(SANITIZED_RUN) \
	    $(SANITIZED_TESTS) $(ARGS) -k "sizes or projections or read_and_write" || exit 1; done

test-emulator: build  ## the CUDA kernels' source on the CPU, without a GPU
	EMULATOR_ALL=1 "$(PY)" -m pytest -q tests/cuda $(ARGS)

# Tests of a missing package are skipped; pytest lists them.
test-ecosystem: build $(ECOSYSTEM)  ## tests with Keras, Lightning, transformers, SB3-contrib, TensorBoard
	KERAS_BACKEND=torch "$(PY)" -m pytest -q -rs tests/ecosystem $(ARGS)

# OTHER_TORCH  a torch other than the torch that builds the wheel. It is downloaded for each installed Python,
#              with CUDA's libraries (5 GB unpacked) unless pip finds a version without them
OTHER_TORCH ?= torch==2.11.0
test-packages: $(ENVIRONMENT) $(PACKERS)  ## sdist and wheel, in clean environments of each Python
	"$(PY)" tests/packages/check.py --torch "$(OTHER_TORCH)" $(ARGS)

examples: build  ## every example, in its quick form; plots go to build/examples
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

# g++ only checks the code here, which is fast. .ci/run also builds with STATEFUL_LSTM_WERROR=1.
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
