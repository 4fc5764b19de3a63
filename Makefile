# GlobalMart. `make` alone lists the commands.
PYTHON ?= python3
py := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup demo up down status lab unit test bench soak clean lint docs

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /  make \1	/' | expand -t 16

setup: ## packages, jars, .env and git filter; nothing to do the second time
	@$(PYTHON) lib/stack/bootstrap.py

demo: ## the whole line on real parts: history, live events, a batch cycle, reports
	@$(PYTHON) lib/stack/bootstrap.py --ports
	@$(py) -m lib.stack.demo

up: ## live: stack, generators at 50 events/s, savers and scheduler
	@$(PYTHON) lib/stack/bootstrap.py --ports
	@$(py) -m lib.stack up

down: ## stop all of it; the data stays
	@$(PYTHON) lib/stack/bootstrap.py
	@$(py) -m lib.stack down

status: ## what runs, and how far it is
	@$(PYTHON) lib/stack/bootstrap.py
	@$(py) -m lib.stack status

lab: ## JupyterLab in the project, on loopback
	@$(PYTHON) lib/stack/bootstrap.py
	@$(py) -m lib.stack lab

unit: ## the tests that need no running stack
	@$(PYTHON) lib/stack/bootstrap.py
	@$(py) -m pytest tests/unit -n 2 --dist worksteal

test: unit ## every test, on ports and data of their own
	@$(py) -m pytest tests/stack
	@$(py) -m pytest tests/fuzz

bench: ## the figures of docs/performance.md
	@$(PYTHON) lib/stack/bootstrap.py
	@$(py) -m benchmarks

soak: ## the long forms of the tests
	@$(PYTHON) lib/stack/bootstrap.py
	@$(py) -m pytest tests/stack --soak
	@$(py) -m pytest tests/fuzz --soak
	@$(py) -m benchmarks soak

docs: ## environment.yml and the README's table of jobs, made anew
	@$(PYTHON) lib/stack/bootstrap.py
	@$(py) -m lib.cli.docs

lint: setup ## ruff, mypy, import-linter, sqlfluff, and notebooks without outputs
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .
	@.venv/bin/mypy lib generators serving schedule.py
	@.venv/bin/lint-imports --no-logo --no-cache
	@.venv/bin/sqlfluff lint --disable-progress-bar sql
	@git ls-files -z '*.ipynb' | xargs -0 -r .venv/bin/nbstripout --verify

clean: ## forget all data, asks first
	@$(PYTHON) lib/stack/bootstrap.py
	@$(py) -m lib.stack clean
