# Everything runs in .venv, which the first target that needs it makes (.ci/setup.py). DEVICE=cpu or DEVICE=gpu overrides what is detected.
.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint chaos bench ladder lock setup clean

PY := .venv/bin/python

# Prefect's database is scratch: what an experiment owes is read from its results. Kept out of the home directory, whose profile may
# name a server that a demo should not write to. To use your own server, run the flows yourself or set PREFECT_HOME.
export PREFECT_HOME ?= $(CURDIR)/.venv/prefect
export DO_NOT_TRACK ?= 1
export VLLM_NO_USAGE_STATS ?= 1

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## install, run the nano experiment on five small models, print the comparison (about 6 minutes on 2 cores after installing)
	$(PY) flows/sweep.py nano
	$(PY) flows/analyze.py nano

test: setup ## fast tests, some against a real vLLM server (about 20 minutes on 2 cores)
	$(PY) -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup ## the rest of the tests
	$(PY) -m pytest -m slow

lint: setup ## ruff and mypy, both even where the first finds something
	@failed=0; $(PY) -m ruff check . || failed=1; $(PY) -m mypy || failed=1; exit $$failed

chaos: setup ## break runs in every phase, run them again, compare (about half an hour; SEED=7 repeats a campaign, KINDS=fake is shorter)
	$(PY) tests/chaos.py $(if $(SEED),--seed $(SEED)) $(if $(KINDS),--kinds $(KINDS))

bench: setup ## the speed claims of the README, measured here
	$(PY) flows/bench.py

ladder: setup ## train the shipped model ladders again (an hour and a half on 2 cores); goes on where it stopped
	$(PY) flows/train_ladder.py
	$(PY) flows/train_ladder.py --ladder many

lock: ## choose new versions for .ci/*.lock (needs uv)
	@$(find_python); "$$python" .ci/lock.py

clean: ## remove the environment and caches; results stay
	rm -rf .venv build .pytest_cache .ruff_cache .mypy_cache flows/*.egg-info
	find flows tests .ci -name __pycache__ -type d -prune -exec rm -rf {} +

# PYTHON if it is given, else the first Python 3.11 that really starts, else any: .ci/setup.py says what is wrong with it.
define find_python
python="$(PYTHON)"; \
for candidate in python3.11 python3 python; do \
  [ -n "$$python" ] || ! $$candidate -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || python=$$candidate; \
done; \
python="$${python:-python3}"
endef

setup:
	@$(find_python); command -v "$$python" >/dev/null || { echo "No Python found: install Python 3.11, or name one with PYTHON=/path/to/python3.11."; exit 1; }; "$$python" .ci/setup.py
