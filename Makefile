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
CPP := $(wildcard csrc/*.cpp csrc/*.h csrc/*.inl csrc/*/*.cpp csrc/*/*.h csrc/*/*.inl)
FORMATTED := $(CPP) $(wildcard csrc/cuda/*.cu tests/emulator/*.cpp tests/emulator/*.h)
REQUIREMENTS := requirements/demo.txt requirements/test.txt requirements/dev.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help environment demo test test-sets test-sanitized test-emulator lint format build cuda examples bench clean

help:         ## this list
	@sed -n 's/^\([a-z-]*\): .*## /  make \1@/p' Makefile | tr @ '\t' | expand -t 22

# ---------------------------------------------------------------- environment

export PIP_DISABLE_PIP_VERSION_CHECK := 1

ifeq ($(strip $(VENV)),)

PY := $(PYTHON)
ENVIRONMENT := packages-present
PEERS :=
.PHONY: packages-present
packages-present:
	@$(PYTHON) tools/check_environment.py packages requirements/demo.txt requirements/test.txt \
	    || { echo "make: $(PYTHON) lacks the above, and an empty VENV forbids downloads" >&2; exit 1; }

else

VENV_PATH := $(if $(filter /%,$(VENV)),,$(CURDIR)/)$(VENV)
PY := $(VENV_PATH)/bin/python
ENVIRONMENT := $(VENV)/.ready
PEERS := $(VENV)/.peers
export PATH := $(VENV_PATH)/bin:$(PATH)

# The last line of the recipe below leaves this text in .ready. If it differs, or the Python is
# gone, start afresh; but only a folder with our own .ready in it is ever cleared.
MADE_FOR := $(VENV_PATH) $(TORCH)
ifneq ($(shell "$(PY)" -c pass 2>/dev/null && cat "$(ENVIRONMENT)" 2>/dev/null),$(MADE_FOR))
.PHONY: $(ENVIRONMENT)
CLEAR := $(if $(wildcard $(ENVIRONMENT)),--clear)
endif

# torch comes first and pinned: nothing in the requirements asks for another.
$(ENVIRONMENT): $(REQUIREMENTS)
	@command -v $(PYTHON) >/dev/null || \
	    { echo "make: no $(PYTHON): sudo apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) tools/check_environment.py tools
	@"$(PY)" -c pass 2>/dev/null || rm -f "$(VENV_PATH)"/bin/python*  # dead links stop venv
	@echo "Installing $(TORCH) and the tools into $(VENV). This is done once."
	@$(PYTHON) -m venv $(CLEAR) "$(VENV)"
	"$(PY)" -m pip install -q "$(TORCH)" numpy
	"$(PY)" -m pip install -q $(addprefix -r ,$(REQUIREMENTS))
	@echo '$(MADE_FOR)' > "$@"

# One by one: where a package has no wheel, the others still take part.
$(PEERS): requirements/peers.txt $(ENVIRONMENT)
	@grep -v '^#' $< | { lacking=; while read -r peer; do \
	    "$(PY)" -m pip install -q "$$peer" || lacking="$$lacking $$peer"; done; \
	    [ -z "$$lacking" ] && touch "$@" || echo "make: without$$lacking"; }

endif

environment: $(ENVIRONMENT)  ## the virtual environment, with torch and the tools

# ---------------------------------------------------------------- build

build: $(LIBRARY)  ## the compiled library, in place

# The folders are here so that a file added or removed counts as a change. --force, since setuptools
# would see neither; ninja still compiles only what changed.
$(LIBRARY): setup.py $(CPP) $(wildcard csrc csrc/*/) | $(ENVIRONMENT)
	"$(PY)" setup.py -q build_ext --inplace --force
	@touch $@

# The GPU's code of all kernels, for all chips; without nvcc it says so and is content.
cuda: | $(ENVIRONMENT)  ## compile the CUDA kernels, and look for spilled registers
	"$(PY)" csrc/cuda/compile.py --check

# The library with sanitizers, in a copy of the package: the one in stateful_lstm/ is left alone.
SANITIZED := build/sanitized
SANITIZER := $(shell $(CXX) -print-file-name=libasan.so)

$(SANITIZED)/stateful_lstm/_C.abi3.so: setup.py $(CPP) $(wildcard csrc csrc/*/) | $(ENVIRONMENT)
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
KERNEL_TESTS := tests/test_parity.py tests/test_chunks.py tests/test_slots.py
test-sets: build  ## tests of the kernels with each other instruction set that the machine has
	@names=$$($(RUN) -c 'from stateful_lstm import ops; print(*ops.cpu_capabilities()[1:])') && \
	    [ -n "$$names" ] && for name in $$names; do echo "== $$name"; \
	    STATEFUL_LSTM_CPU=$$name "$(PY)" -m pytest -q $(KERNEL_TESTS) $(ARGS) || exit 1; done

# Python and torch leak by themselves. Without libstdc++ up there, the first exception that C++ throws
# ends it all: Python does not link it, and libasan looks for it when it is loaded.
SANITIZED_RUN = LD_PRELOAD="$(SANITIZER) $(shell $(CXX) -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    STATEFUL_LSTM_SANITIZE=1 "$(PY)" -m pytest -q -c ../../pyproject.toml -o pythonpath=
# Left out: what asks after bits (the kernels are compiled otherwise here), what takes long, and what
# never comes to a kernel.
SANITIZED_TESTS := $(addprefix ../../,$(wildcard $(addprefix tests/test_,$(addsuffix .py,\
    sanitized operators parity chunks slots state_calls \
    quick_step quick_refused quick_outputs))))
test-sanitized: $(SANITIZED)/stateful_lstm/_C.abi3.so  ## tests of the kernels with g++'s sanitizers
	@cp stateful_lstm/*.py $(SANITIZED)/stateful_lstm
	cd $(SANITIZED) && $(SANITIZED_RUN) $(SANITIZED_TESTS) $(ARGS) \
	    -k "not bit_for_bit and not opcheck and not every_instruction_set and \
	    not 65535 and not threads_change and not dropout and not raise and not reference]"
	cd $(SANITIZED) && for name in portable pairs; do STATEFUL_LSTM_CPU=$$name $(SANITIZED_RUN) \
	    $(SANITIZED_TESTS) $(ARGS) -k "sizes or projections or read_and_write" || exit 1; done

test-emulator: build  ## the CUDA kernels' source on the CPU, without a GPU
	"$(PY)" -m pytest -q tests/test_emulator.py tests/test_cuda_kernels.py tests/test_cuda_plan.py $(ARGS)

examples: build  ## every example, in its quick form; pictures go to build/examples
	@mkdir -p build/examples
	@for file in examples/[!_]*.py; do \
	    echo "== $$file"; \
	    MPLBACKEND=Agg $(RUN) "$$file" --quick --out build/examples || exit 1; \
	done

bench: build $(PEERS)  ## the benchmarks, beside nn.LSTM, ONNX Runtime and OpenVINO
	$(RUN) benchmarks/bench.py $(ARGS)

# ---------------------------------------------------------------- code

# g++ here only reads the code, which is quick; .ci/run builds with STATEFUL_LSTM_WERROR=1 as well.
lint: $(ENVIRONMENT)  ## style, types, compiler warnings
	"$(PY)" -m ruff check .
	"$(PY)" -m ruff format --check .
	"$(PY)" -m mypy
	clang-format --dry-run -Werror $(FORMATTED)
	$(CXX) -fsyntax-only -std=c++17 -Wall -Wextra -Werror -DTORCH_TARGET_VERSION=0x020b000000000000 \
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
