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

# For the gpu targets: the machine's own Python, before the environment is put in front of it.
GPU_PYTHON := $(shell command -v $(PYTHON))

LIBRARY := stateful_lstm/_C.abi3.so
CPP := $(shell find csrc -name '*.cpp' -o -name '*.h')
FORMATTED := $(shell find csrc benchmarks tests -name '*.cu' -o -name '*.cpp' -o -name '*.h')
REQUIREMENTS := $(addprefix requirements/,demo.txt interop.txt test.txt dev.txt docs.txt)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help environment demo test test-sets test-sanitized test-emulator test-ecosystem test-packages
.PHONY: lint format build cuda examples bench docs clean
.PHONY: gpu-check gpu-build gpu-chip gpu-test gpu-sanitize gpu-bench

help:         ## this list
	@sed -n 's/^\([a-z-]*\): .*## /  make \1@/p' Makefile | tr @ '\t' | expand -t 22

# ---------------------------------------------------------------- environment

export PIP_DISABLE_PIP_VERSION_CHECK := 1

ifeq ($(strip $(VENV)),)

PY := $(PYTHON)
ENVIRONMENT := packages-present
PEERS :=
ECOSYSTEM :=
PACKERS :=
.PHONY: packages-present
packages-present:
	@$(PYTHON) tools/check_environment.py packages requirements/demo.txt requirements/test.txt \
	    || { echo "make: $(PYTHON) lacks the above, and an empty VENV forbids downloads" >&2; exit 1; }

else

VENV_PATH := $(if $(filter /%,$(VENV)),,$(CURDIR)/)$(VENV)
PY := $(VENV_PATH)/bin/python
ENVIRONMENT := $(VENV)/.ready
PEERS := $(VENV)/.peers
ECOSYSTEM := $(VENV)/.ecosystem
PACKERS := $(VENV)/.packers
export PATH := $(VENV_PATH)/bin:$(PATH)

# The last line of the recipe below leaves this text in .ready. If it differs, or the Python is
# gone, start afresh; but only a folder with our own .ready in it is ever cleared.
MADE_FOR := $(VENV_PATH) $(TORCH)
ifneq ($(shell "$(PY)" -c pass 2>/dev/null && cat "$(ENVIRONMENT)" 2>/dev/null),$(MADE_FOR))
.PHONY: $(ENVIRONMENT)
CLEAR := $(if $(wildcard $(ENVIRONMENT)),--clear)
endif

# torch comes first and pinned: nothing in the requirements asks for another. --no-compile: Python
# compiles of their thousands of modules what is imported, when it is.
$(ENVIRONMENT): $(REQUIREMENTS)
	@command -v $(PYTHON) >/dev/null || \
	    { echo "make: no $(PYTHON): sudo apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) tools/check_environment.py tools
	@"$(PY)" -c pass 2>/dev/null || rm -f "$(VENV_PATH)"/bin/python*  # dead links stop venv
	@echo "Installing $(TORCH) and the tools into $(VENV). This is done once."
	@$(PYTHON) -m venv $(CLEAR) "$(VENV)"
	"$(PY)" -m pip install -q --no-compile "$(TORCH)" numpy
	"$(PY)" -m pip install -q --no-compile $(addprefix -r ,$(REQUIREMENTS))
	@echo '$(MADE_FOR)' > "$@"

# One by one: where a package has no wheel, the others still take part.
$(PEERS): requirements/peers.txt $(ENVIRONMENT)
	@grep -v '^#' $< | { lacking=; while read -r peer; do \
	    "$(PY)" -m pip install -q --no-compile "$$peer" || lacking="$$lacking $$peer"; done; \
	    [ -z "$$lacking" ] && touch "$@" || echo "make: without$$lacking"; }

# They ask for some torch or other: the one that is there stays.
$(ECOSYSTEM): requirements/ecosystem.txt $(ENVIRONMENT)
	@"$(PY)" -c 'import torch; print("torch==" + torch.__version__)' > "$@.torch"
	"$(PY)" -m pip install -q -c "$@.torch" -r $<
	@mv "$@.torch" "$@"

$(PACKERS): requirements/packages.txt $(ENVIRONMENT)
	"$(PY)" -m pip install -q -r $<
	@touch "$@"

endif

environment: $(ENVIRONMENT)  ## the virtual environment, with torch and the tools

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

test: build  ## all tests
	"$(PY)" -m pytest -q $(ARGS)

# The instruction set that a machine chooses by itself comes first, and is what `make test` tests.
test-sets: build  ## tests of the kernels with each other instruction set that the machine has
	@names=$$($(RUN) -c 'from stateful_lstm.backend import operators; print(*operators.cpu_capabilities()[1:])') && \
	    [ -n "$$names" ] && for name in $$names; do echo "== $$name"; \
	    only=; case $$name in tiles) only="-k bfloat16 tests/invariance";; esac; \
	    STATEFUL_LSTM_CPU=$$name "$(PY)" -m pytest -q $$only tests/kernels $(ARGS) || exit 1; done

# Python and torch leak by themselves. Without libstdc++ up there, the first exception that C++ throws
# ends it all: Python does not link it, and libasan looks for it when it is loaded.
SANITIZED_RUN = LD_PRELOAD="$(SANITIZER) $(shell $(CXX) -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    STATEFUL_LSTM_SANITIZE=1 "$(PY)" -m pytest -q -c ../../pyproject.toml -o pythonpath="../../tests ../../tests/helpers"
# Left out: what asks after bits or accuracy alone (the kernels are compiled otherwise here), what takes
# long, and what never comes to a kernel.
SANITIZED_TESTS := $(addprefix ../../tests/,operators kernels fastpath)
test-sanitized: $(SANITIZED)/stateful_lstm/_C.abi3.so  ## tests of the kernels with g++'s sanitizers
	@cp -r stateful_lstm/*.py stateful_lstm/backend $(SANITIZED)/stateful_lstm
	cd $(SANITIZED) && $(SANITIZED_RUN) $(SANITIZED_TESTS) $(ARGS) \
	    -k "not bit_for_bit and not opcheck and not every_instruction_set and \
	    not 65535 and not threads_change and not dropout and not raise and not reference] and \
	    not as_near_to_the_truth and not compiled_calls and not traced_and_exported"
	cd $(SANITIZED) && for name in portable pairs tiles; do STATEFUL_LSTM_CPU=$$name $(SANITIZED_RUN) \
	    $(SANITIZED_TESTS) $(ARGS) -k "sizes or projections or read_and_write" || exit 1; done

test-emulator: build  ## the CUDA kernels' source on the CPU, without a GPU
	EMULATOR_ALL=1 "$(PY)" -m pytest -q \
	    tests/cuda/test_emulator.py $(filter-out %_compile.py,$(wildcard tests/test_cuda_*.py)) $(ARGS)

# Without a package its tests are skipped; pytest says which.
test-ecosystem: build $(ECOSYSTEM)  ## tests with Keras, Lightning, transformers, SB3-contrib, TensorBoard
	KERAS_BACKEND=torch "$(PY)" -m pytest -q -rs tests/ecosystem tests/interop/test_interop_keras_live.py $(ARGS)

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

# ---------------------------------------------------------------- GPU

# On a machine with an NVIDIA GPU and a torch that can use it. No environment is made and nothing is
# downloaded, whatever VENV says: PYTHON is used as it is.
#
# GPU_PARTS  what gpu-check runs       GPU_LIMIT  seconds after which a part is stopped
# GPU_TOOLS  of compute-sanitizer      STATEFUL_LSTM_CUDA_OBJECTS  kernels that are already compiled
# GPU_CHIP   what benchmarks/gpu/microbench.py --compile-only has made, where there is no nvcc
GPU_PARTS ?= gpu-build gpu-chip gpu-test gpu-sanitize gpu-bench
GPU_TOOLS ?= memcheck racecheck synccheck
GPU_LIMIT ?= 1800

GPU := PATH="$$PATH:$${CUDA_HOME:-/usr/local/cuda}/bin" PYTHONPATH="$(CURDIR)"
GPU_LIMITED := $(GPU) timeout --kill-after=15 $(GPU_LIMIT)
GPU_PRESENT := $(GPU) "$(GPU_PYTHON)" tools/check_environment.py gpu
GPU_LACKS = { echo "make: $@ needs the above; it installs nothing" >&2; exit 1; }

gpu-check:    ## on a machine with a GPU: build, tests, sanitizers, benchmarks
	@$(GPU_PRESENT) || $(GPU_LACKS)
	@table=; status=0; for part in $(GPU_PARTS); do \
	    echo "== $$part"; begin=$$(date +%s); result=ok; \
	    $(MAKE) --no-print-directory $$part ARGS= || { result=failed; status=1; }; \
	    table="$$table$$part $$(($$(date +%s) - begin)) $$result\n"; \
	    [ "$$part $$result" != "gpu-build failed" ] || break; done; \
	echo; printf "part seconds result\n$$table" | while read -r part seconds result; do \
	    printf '%-14s%8s  %s\n' "$$part" "$$seconds" "$$result"; done; exit $$status

# The second line: a library that loads here and has the kernels, or why not.
gpu-build:
	@$(GPU_PRESENT) $(if $(STATEFUL_LSTM_CUDA_OBJECTS),,nvcc) || $(GPU_LACKS)
	FORCE_CUDA=1 $(GPU_LIMITED) "$(GPU_PYTHON)" setup.py -q build_ext --inplace --force
	@$(GPU) "$(GPU_PYTHON)" -c 'import sys, stateful_lstm; print(stateful_lstm.info()); \
	    why = stateful_lstm.info()["backends"]["cuda"]; sys.exit(None if why is True else why)'

# What the kernels are bound by, for the floors of gpu-bench: before it.
gpu-chip:
	@$(GPU_PRESENT) $(if $(GPU_CHIP),,nvcc) || $(GPU_LACKS)
	$(GPU_LIMITED) "$(GPU_PYTHON)" -m benchmarks.gpu.microbench $(if $(GPU_CHIP),--program "$(GPU_CHIP)") $(ARGS)

# Without the plugins that a machine's pytest may have: they bring warnings of their own. A test that
# hangs shows where after five minutes.
gpu-test:
	@$(GPU_PRESENT) || $(GPU_LACKS)
	STATEFUL_LSTM_TEST_DEVICE=cuda PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(GPU_LIMITED) \
	    "$(GPU_PYTHON)" -m pytest -q -o faulthandler_timeout=300 tests/gpu $(ARGS)

# torch's cache of memory is off, so that each tensor ends where its memory ends. Only our kernels
# are watched: the namespace is part of their names.
gpu-sanitize:
	@$(GPU_PRESENT) compute-sanitizer || $(GPU_LACKS)
	@mkdir -p build/gpu; status=0; for tool in $(GPU_TOOLS); do \
	    echo "== compute-sanitizer --tool $$tool, to build/gpu/$$tool.log"; \
	    STATEFUL_LSTM_TEST_DEVICE=cuda PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(GPU_LIMITED) \
	        compute-sanitizer --tool $$tool --kernel-name kernel_substring=stateful_lstm \
	        --report-api-errors no --print-limit 20 --error-exitcode 9 \
	        "$(GPU_PYTHON)" tests/gpu/sanitize.py $(ARGS) >build/gpu/$$tool.log 2>&1 || status=1; \
	    tail -n 6 build/gpu/$$tool.log; done; exit $$status

gpu-bench:
	@$(GPU_PRESENT) || $(GPU_LACKS)
	$(GPU_LIMITED) "$(GPU_PYTHON)" -m benchmarks.gpu.bench --limit $$(($(GPU_LIMIT) * 9 / 10)) $(ARGS)

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
