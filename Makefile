.PHONY: search test check clean

# Python keeps what it has compiled, of a module when it is first imported: at set-up that would be all 27,000 files, and
# where it may not, each of many processes compiles all it imports. Empty is off.
export PYTHONDONTWRITEBYTECODE :=

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
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=26'  # takes a third of the time of those that Python brings
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:                         ## what the set-up and the tools made; results stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info
