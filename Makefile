# The few words of this project. `make help` lists them.
# Every word sets up what it needs from requirements.lock; there is no separate installation step.

VENV   := .venv
RUN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
LIBERO := $(VENV)/.libero
# One thread per process unless the user says otherwise: two busy torch pools on two cores wait for each other.
export TOKENIZERS_PARALLELISM := false
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-libero demo test test-slow test-libero bench embedded format check lock clean

help: ## list these words
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv and install the pinned packages

$(STAMP): requirements.lock pyproject.toml launch/lerobot_policy_steered/pyproject.toml tools/find_python.sh
	@python=$$(sh tools/find_python.sh) || exit 1; \
	if ! $(RUN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then \
		echo "setup: creating $(VENV) with $$python"; rm -rf $(VENV); "$$python" -m venv $(VENV); fi
	@echo "setup: installing the pinned packages (about 2.5 GB the first time)"
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.lock)"
	@$(RUN)/uv pip install --quiet --python $(RUN)/python --no-deps -r requirements.lock \
		|| $(RUN)/python -m pip install --disable-pip-version-check --no-deps -r requirements.lock
	@$(RUN)/uv pip install --quiet --python $(RUN)/python --no-deps --no-build-isolation -e . -e launch/lerobot_policy_steered
	@touch $@

demo: $(STAMP) ## steer a language agent, a VLA and two flow policies, and write a report with films (about 5 minutes)
	@$(RUN)/steer-agents experiment run demo

test: $(STAMP) ## run the tests
	@OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 -m "not slow and not libero"

test-slow: $(STAMP) ## run the long tests as well
	@OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 -m "not libero"

setup-libero: $(LIBERO) ## also install the real LIBERO (about 50 MB, assets included where they lie beside this checkout)

$(LIBERO): $(STAMP) requirements-libero.lock tools/setup_libero.sh
	@sh tools/setup_libero.sh $(RUN)
	@touch $@

test-libero: $(LIBERO) ## run the short tests on the real LIBERO
	@OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m "libero and not slow" -p no:xdist

bench: $(STAMP) ## print speed ratios, also against other libraries
	@$(RUN)/python -m bench.run

embedded: $(LIBERO) ## make every embedded policy again (data, training, evaluation, card)
	@$(RUN)/steer-agents rebuild all --install
	@$(RUN)/steer-agents rebuild flow-libero --install

format: $(STAMP) ## format the code
	@$(RUN)/ruff check --fix --quiet . ; $(RUN)/ruff format --quiet .

check: $(STAMP) ## lint and check types
	@$(RUN)/ruff check . && $(RUN)/ruff format --check . && $(RUN)/mypy

lock: $(STAMP) ## resolve requirements.in into requirements.lock again
	@sh tools/lock.sh $(RUN)

clean: ## remove the virtual environment
	@rm -rf $(VENV)
