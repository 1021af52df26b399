# For a machine with an NVIDIA GPU and a torch that can use it. Nothing is installed or downloaded,
# whatever VENV is: PYTHON is used as is.
#
# GPU_PARTS  the parts of gpu-check      GPU_LIMIT  time limit of a part in seconds
# GPU_TOOLS  tools of compute-sanitizer  STATEFUL_LSTM_CUDA_OBJECTS  kernels that are already compiled
# GPU_MICROBENCH  output of benchmarks/gpu/microbench.py --compile-only, for machines without nvcc
GPU_PARTS ?= gpu-build gpu-microbench gpu-test gpu-sanitize gpu-bench
GPU_TOOLS ?= memcheck racecheck synccheck
GPU_LIMIT ?= 1800

# The machine's own Python, found before make/environment.mk puts the environment first in the
# PATH.
GPU_PYTHON := $(shell command -v $(PYTHON))

GPU := PATH="$$PATH:$${CUDA_HOME:-/usr/local/cuda}/bin" PYTHONPATH="$(CURDIR)"
GPU_LIMITED := $(GPU) timeout --kill-after=15 $(GPU_LIMIT)
GPU_PRESENT := $(GPU) "$(GPU_PYTHON)" tools/check_environment.py gpu
GPU_LACKS = { echo "make: $@ needs the above; it installs nothing" >&2; exit 1; }

.PHONY: gpu-check gpu-build gpu-microbench gpu-test gpu-sanitize gpu-bench

gpu-check:    ## on a machine with a GPU: build, tests, sanitizers, benchmarks
	@$(GPU_PRESENT) || $(GPU_LACKS)
	@table=; status=0; for part in $(GPU_PARTS); do \
	    echo "== $$part"; begin=$$(date +%s); result=ok; \
	    $(MAKE) --no-print-directory $$part ARGS= || { result=failed; status=1; }; \
	    table="$$table$$part $$(($$(date +%s) - begin)) $$result\n"; \
	    [ "$$part $$result" != "gpu-build failed" ] || break; done; \
	echo; printf "part seconds result\n$$table" | while read -r part seconds result; do \
	    printf '%-14s%8s  %s\n' "$$part" "$$seconds" "$$result"; done; exit $$status

# The last command reports whether the library loads on this machine and has the kernels, or the
# reason why not.
gpu-build:    ## the library with the CUDA kernels
	@$(GPU_PRESENT) $(if $(STATEFUL_LSTM_CUDA_OBJECTS),,nvcc) || $(GPU_LACKS)
	FORCE_CUDA=1 $(GPU_LIMITED) "$(GPU_PYTHON)" setup.py -q build_ext --inplace --force
	@$(GPU) "$(GPU_PYTHON)" -c 'import sys, stateful_lstm; print(stateful_lstm.info()); \
	    why = stateful_lstm.info()["backends"]["cuda"]; sys.exit(None if why is True else why)'

# Measures the chip's limits. gpu-bench runs later and derives its rooflines from them.
gpu-microbench: ## the chip's own limits, from microbenchmarks
	@$(GPU_PRESENT) $(if $(GPU_MICROBENCH),,nvcc) || $(GPU_LACKS)
	$(GPU_LIMITED) "$(GPU_PYTHON)" -m benchmarks.gpu.microbench $(if $(GPU_MICROBENCH),--program "$(GPU_MICROBENCH)") $(ARGS)

# The plugins of the machine's pytest are off, since they cause their own warnings. A test that
# hangs prints its stack after five minutes.
gpu-test:     ## the tests in tests/gpu
	@$(GPU_PRESENT) || $(GPU_LACKS)
	STATEFUL_LSTM_TEST_DEVICE=cuda PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(GPU_LIMITED) \
	    "$(GPU_PYTHON)" -m pytest -q -o faulthandler_timeout=300 tests/gpu $(ARGS)

# torch's memory cache is off, so that each tensor ends where its memory ends. Only our kernels are
# checked: the filter is the namespace in their names.
gpu-sanitize: ## compute-sanitizer on every kernel
	@$(GPU_PRESENT) compute-sanitizer || $(GPU_LACKS)
	@mkdir -p build/gpu; status=0; for tool in $(GPU_TOOLS); do \
	    echo "== compute-sanitizer --tool $$tool, to build/gpu/$$tool.log"; \
	    STATEFUL_LSTM_TEST_DEVICE=cuda PYTORCH_NO_CUDA_MEMORY_CACHING=1 $(GPU_LIMITED) \
	        compute-sanitizer --tool $$tool --kernel-name kernel_substring=stateful_lstm \
	        --report-api-errors no --print-limit 20 --error-exitcode 9 \
	        "$(GPU_PYTHON)" tests/gpu/sanitize.py $(ARGS) >build/gpu/$$tool.log 2>&1 || status=1; \
	    tail -n 6 build/gpu/$$tool.log; done; exit $$status

gpu-bench:    ## the benchmarks on the GPU
	@$(GPU_PRESENT) || $(GPU_LACKS)
	$(GPU_LIMITED) "$(GPU_PYTHON)" -m benchmarks.gpu.bench --limit $$(($(GPU_LIMIT) * 9 / 10)) $(ARGS)
