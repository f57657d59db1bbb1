.PHONY: search test check clean

PYTHON ?= python3
BIN := .venv/bin

search: .venv/ready            ## the main job on the embedded sample, one local worker node
	$(BIN)/python search/pareto.py

test: .venv/ready              ## every test
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

check: .venv/ready             ## lint, format, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # on all cores; some packages carry files that are no Python
	touch $@

clean:                         ## what the set-up and the tools made; results stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info
