# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_ARGS ?=

.PHONY: demo test lint types bench install clean

# Reinstalled when what is asked for changes.
$(VENV)/.installed: pyproject.toml constraints.txt scripts/install.sh
	PYTHON="$(PYTHON)" sh scripts/install.sh "$(VENV)"
	touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/saescope demo $(DEMO_ARGS)

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 15

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

bench: install
	$(BIN)/saescope bench --arch topk,batchtopk,matryoshka

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
