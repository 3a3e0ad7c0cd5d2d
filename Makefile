# Every target sets up what it needs: a virtual environment for each Airflow version, out of Python alone.

PYTHON ?= python3
AIRFLOW_VERSION ?= 3.3.2
VENV := .venvs/$(AIRFLOW_VERSION)
BIN := $(VENV)/bin
CONSTRAINTS := constraints/airflow-$(AIRFLOW_VERSION).txt
READY := $(VENV)/.ready
WORKERS ?= 8
BENCH_AIRFLOW := 3.3.2
BENCH_VENV := .venvs/bench
BENCH_CONSTRAINTS := constraints/airflow-$(BENCH_AIRFLOW).txt
BENCH_READY := $(BENCH_VENV)/.ready
BENCH_ARGS ?=
CELERY_VENV := .venvs/celery-$(AIRFLOW_VERSION)
CELERY_READY := $(CELERY_VENV)/.ready
CELERY_TASKS ?= 200
CELERY_SECONDS ?= 240
CELERY_SEED ?= 7
PYTEST_ARGS ?=
# What failed last is remembered for each version, for --last-failed.
PYTEST := $(BIN)/python -m pytest -q -o cache_dir=.pytest_cache/$(AIRFLOW_VERSION)
# Rules and what is known of Dify's API: what decides, and can be tested whole. The tests that run most of it suffice.
COVERED_BY := tests/api tests/rules tests/contract tests/knowledge tests/runtime tests/operators/test_batch.py \
	tests/operators/test_parameters.py tests/operators/test_uploads.py tests/operators/test_lineage.py \
	tests/hooks/test_diagnosis.py tests/hooks/test_hook_methods.py tests/hooks/test_test_connection.py
COVERAGE_ARGS := --cov=airflow_provider_dify.api --cov=airflow_provider_dify.rules --cov-branch \
	--cov-report=term-missing:skip-covered --cov-fail-under=95
SOAK_RUNS ?= 30
SOAK_SECONDS ?= 60
SOAK_SEED ?= 7
BATCH_ROWS ?= 300
BATCH_SECONDS ?= 90
SOAK := $(BIN)/python -m tests.faults.soak --runs $(SOAK_RUNS) --seconds $(SOAK_SECONDS) --seed $(SOAK_SEED)
# All tests run on the newest Airflow. On the oldest those of rules, recordings and the local server are left out, which
# use nothing of Airflow, and those of HTTP, which run there with the oldest dependencies.
OLDEST := 2.11.2
PURE_TESTS := tests/api tests/rules tests/contract tests/testing tests/hooks
# On the versions between them and on the pre-release of the next, the tests whose outcome depends on Airflow run:
# none with the mark any_airflow.
MATRIX := 3.0.6 3.1.8 3.2.2 3.4.0b2
MATRIX_TESTS := $(wildcard tests/test_*.py) tests/operators tests/sensors tests/triggers tests/links tests/decorators tests/policies \
	tests/integration/test_example_dags.py::test_an_example_works tests/integration/test_dags_test.py \
	tests/integration/test_pytest_recipe.py \
	tests/integration/test_human_input.py::test_an_answer_in_airflow_lets_the_run_go_on
# Beside these Airflows the oldest dependencies that pyproject.toml allows are tested.
LOWEST := 2.11.2 3.3.2
PORT ?= 0
DAGS ?=

# make demo DIFY_BASE_URL=… DIFY_API_KEY=… DIFY_INPUTS='{"text": "hi"}' runs the workflow of a real server.
export DIFY_BASE_URL DIFY_API_KEY DIFY_INPUTS SCREENSHOTS CHROMIUM

# Where Python may keep no bytecode, as in many containers, each of the many processes compiles all of Airflow anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup release up down demo test coverage oldest lowest processes bench matrix faults soak upgrades batches celery browser lint format docs diagrams links wheel constraints clean

help:
	@echo "make demo        run a workflow from a DAG, against a local Dify server"
	@echo "make up          start Airflow with its user interface, the example DAGs and a local Dify server; DAGS=path adds yours"
	@echo "make down        end them"
	@echo "make test        run the tests but those of the next commands; AIRFLOW_VERSION=2.11.2 chooses another Airflow, PYTEST_ARGS=… a selection"
	@echo "make coverage    fail where less than 95 % of the branches of api/ and rules/ are run"
	@echo "make oldest      run the tests that use Airflow on $(OLDEST)"
	@echo "make lowest      run the tests of hook and answers with the oldest dependencies that are allowed, on Airflow $(LOWEST)"
	@echo "make processes   run the tests that start Airflow's processes, or DAGs that take long"
	@echo "make faults      kill Airflow's real processes, with PostgreSQL, whose programs must be installed"
	@echo "make soak        run many tasks while Airflow's processes and Dify are killed at random, with PostgreSQL"
	@echo "make upgrades    run many tasks while Dify is upgraded again and again, with PostgreSQL"
	@echo "make batches     run two batches while what they run in, Dify and their folder fail at random, with PostgreSQL"
	@echo "make celery      run many tasks with CeleryExecutor while workers, triggerers, schedulers and the broker are killed"
	@echo "make matrix      run the tests that depend on Airflow on $(MATRIX)"
	@echo "make bench       measure waiting beside the triggers of other providers; BENCH_ARGS=--help tells more"
	@echo "make browser     click through Airflow's user interface in Chromium; SCREENSHOTS=docs/images takes the docs' pictures"
	@echo "make lint        ruff, mypy, codespell and the contract of the layers"
	@echo "make format      let ruff rewrite what it can"
	@echo "make docs        build the documentation into site/"
	@echo "make diagrams    draw the documentation's diagrams again, in headless Chromium"
	@echo "make links       check the documentation's links to other hosts, which needs a network"
	@echo "make wheel       build the wheel, and check it beside Airflow in an empty environment"
	@echo "make constraints resolve the constraints of all tested Airflow versions again"
	@echo "make release     VERSION=1.2.0: check, build, set the changelog, commit and tag; DRY_RUN=1 changes nothing"
	@echo "make clean       remove the environments and everything that was built"

$(READY): pyproject.toml $(CONSTRAINTS)
	@echo "Setting up Airflow $(AIRFLOW_VERSION) in $(VENV) …"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.7"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint $(CONSTRAINTS) \
		"apache-airflow==$(AIRFLOW_VERSION)" --editable ".[testing]" --group dev --group docs
	@touch $@

setup: $(READY)

# The peers' providers ask for packages of their own, which the tests do without.
$(BENCH_READY): pyproject.toml $(BENCH_CONSTRAINTS)
	@echo "Setting up Airflow $(BENCH_AIRFLOW) beside the peers' providers in $(BENCH_VENV) …"
	@$(PYTHON) -m venv --clear $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.7"
	@$(BENCH_VENV)/bin/uv pip install --quiet --python $(BENCH_VENV)/bin/python --constraint $(BENCH_CONSTRAINTS) \
		"apache-airflow==$(BENCH_AIRFLOW)" --editable ".[testing]" --group dev --group bench
	@# Without its SQL connector, which asks for an older dateutil than this Airflow and is none of the trigger's.
	@$(BENCH_VENV)/bin/uv pip install --quiet --python $(BENCH_VENV)/bin/python --no-deps \
		"apache-airflow-providers-databricks==7.23.0"
	@touch $@

bench: $(BENCH_READY)
	@$(BENCH_VENV)/bin/python -m benchmarks.waiting $(BENCH_ARGS)

# Celery and what it needs are none of what the other tests, and most users, have beside the provider.
$(CELERY_READY): pyproject.toml $(CONSTRAINTS)
	@echo "Setting up Airflow $(AIRFLOW_VERSION) with Celery in $(CELERY_VENV) …"
	@$(PYTHON) -m venv --clear $(CELERY_VENV)
	@$(CELERY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.7"
	@$(CELERY_VENV)/bin/uv pip install --quiet --python $(CELERY_VENV)/bin/python --constraint $(CONSTRAINTS) \
		"apache-airflow==$(AIRFLOW_VERSION)" --editable ".[testing]" --group dev --group celery
	@touch $@

demo: $(READY)
	@$(BIN)/python scripts/demo.py

up: $(READY)
	@$(BIN)/python scripts/stack.py up --port $(PORT) $(if $(DAGS),--dags "$(DAGS)")

down:
	@$(PYTHON) scripts/stack.py down

test: $(READY)
	@$(PYTEST) -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

coverage: $(READY)
	@$(PYTEST) -n $(WORKERS) --dist loadgroup $(COVERAGE_ARGS) $(COVERED_BY) $(PYTEST_ARGS)

processes: $(READY)
	@$(PYTEST) -m processes -n 4 --dist loadgroup $(PYTEST_ARGS)

faults: $(READY)
	@$(PYTEST) -m "postgres$(if $(filter $(OLDEST),$(AIRFLOW_VERSION)), and not any_airflow)" tests/faults $(PYTEST_ARGS)

soak: $(READY)
	@$(SOAK)

upgrades: $(READY)
	@$(SOAK) --upgrades

batches: $(READY)
	@$(BIN)/python -m tests.faults.batch_soak --rows $(BATCH_ROWS) --seconds $(BATCH_SECONDS) --seed $(SOAK_SEED)

celery: $(CELERY_READY)
	@$(CELERY_VENV)/bin/python -m tests.faults.celery \
		--tasks $(CELERY_TASKS) --seconds $(CELERY_SECONDS) --seed $(CELERY_SEED)

oldest:
	@$(MAKE) --no-print-directory test AIRFLOW_VERSION=$(OLDEST) PYTEST_ARGS="$(addprefix --ignore=,$(PURE_TESTS)) $(PYTEST_ARGS)"
	@$(MAKE) --no-print-directory processes AIRFLOW_VERSION=$(OLDEST) \
		PYTEST_ARGS="-m 'processes and not any_airflow' $(PYTEST_ARGS)"

matrix: $(addprefix matrix-,$(MATRIX))

matrix-%:
	@echo "Airflow $*:"
	@$(MAKE) --no-print-directory test AIRFLOW_VERSION=$* \
		PYTEST_ARGS="-m 'not postgres and not browser and not any_airflow' $(MATRIX_TESTS) $(PYTEST_ARGS)"

# Most of these tests wait, so both versions run at the same time, with half of the workers; each prints its output once it has ended.
lowest: $(addprefix .venvs/lowest-,$(addsuffix /.ready,$(LOWEST)))
	@$(MAKE) --no-print-directory --jobs --output-sync=target $(addprefix lowest-,$(LOWEST))

lowest-%:
	@echo "Airflow $* with the oldest dependencies:"
	@.venvs/lowest-$*/bin/python -m pytest -q -o cache_dir=.pytest_cache/lowest-$* -n 4 --dist loadgroup \
		tests/api tests/hooks $(PYTEST_ARGS)

.venvs/lowest-%/.ready: $(READY) pyproject.toml constraints/airflow-%.txt scripts/setup_lowest.sh
	@echo "Setting up Airflow $* with the oldest dependencies in .venvs/lowest-$* …"
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/setup_lowest.sh $* .venvs/lowest-$*
	@touch $@

browser: $(READY)
	@$(PYTEST) -m browser tests/browser $(PYTEST_ARGS)

lint: $(READY)
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/codespell
	@$(BIN)/lint-imports --no-logo > /dev/null || $(BIN)/lint-imports

format: $(READY)
	@$(BIN)/ruff check --fix --exit-zero --quiet
	@$(BIN)/ruff format

docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Needs nothing but Python. CI leaves it out: another host's trouble is no reason to refuse a change.
diagrams:
	@scripts/draw_diagrams.sh

links:
	@$(PYTHON) scripts/check_links.py

release: $(READY)
	@$(BIN)/python scripts/release.py $(if $(DRY_RUN),--dry-run) "$(VERSION)"

wheel: $(READY)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/check_wheel.sh $(AIRFLOW_VERSION)

constraints: $(READY)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/resolve_constraints.sh

clean: down
	@rm -rf .venvs .demo .up .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist site
