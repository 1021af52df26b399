# The virtual environment in VENV, or the existing PYTHON if VENV is empty. Sets PY, the Python of
# all recipes, and ENVIRONMENT, PEERS, ECOSYSTEM and PACKERS, the prerequisites of other targets.
.PHONY: environment

REQUIREMENTS := $(addprefix requirements/,demo.txt interop.txt test.txt dev.txt docs.txt)

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

# The last line of the recipe below writes this text to .ready. If the text differs, or the Python
# is gone, the environment is rebuilt. Only a folder that contains our own .ready is ever cleared.
MADE_FOR := $(VENV_PATH) $(TORCH)
ifneq ($(shell "$(PY)" -c pass 2>/dev/null && cat "$(ENVIRONMENT)" 2>/dev/null),$(MADE_FOR))
.PHONY: $(ENVIRONMENT)
CLEAR := $(if $(wildcard $(ENVIRONMENT)),--clear)
endif

# torch comes first and is pinned, so the requirements never replace it. --no-compile: the packages
# have thousands of modules, and Python compiles a module when it is imported.
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

# One by one, so that a package without a wheel does not block the others.
$(PEERS): requirements/peers.txt $(ENVIRONMENT)
	@grep -v '^#' $< | { lacking=; while read -r peer; do \
	    "$(PY)" -m pip install -q --no-compile "$$peer" || lacking="$$lacking $$peer"; done; \
	    [ -z "$$lacking" ] && touch "$@" || echo "make: without$$lacking"; }

# The packages ask for different versions of torch. The installed torch stays.
$(ECOSYSTEM): requirements/ecosystem.txt $(ENVIRONMENT)
	@"$(PY)" -c 'import torch; print("torch==" + torch.__version__)' > "$@.torch"
	"$(PY)" -m pip install -q -c "$@.torch" -r $<
	@mv "$@.torch" "$@"

$(PACKERS): requirements/packages.txt $(ENVIRONMENT)
	"$(PY)" -m pip install -q -r $<
	@touch "$@"

endif

environment: $(ENVIRONMENT)  ## the virtual environment, with torch and the tools
