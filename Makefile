# make demo   a first run, from nothing
# make test   style, types, layers and the whole test suite
# make dashboard   a page that compares the runs in logs/
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check dashboard lock bench clean

demo: $(STAMP)
	$(BIN)/python train.py

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dashboard: $(STAMP)
	$(BIN)/python -m pffdst.report logs -o logs/report.html

bench: $(STAMP)
	$(BIN)/python benchmarks/client_training.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/wire.py
	$(BIN)/python benchmarks/wire_fuzz.py
	$(BIN)/python benchmarks/codecs.py
	$(BIN)/python benchmarks/report.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

lock:
	rm -rf .lock && $(PYTHON) -m venv .lock
	.lock/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	(echo '# Exact versions of the whole set, tested together. Made by `make lock` from a fresh virtual environment.'; \
	 .lock/bin/python -m pip freeze --exclude-editable) > constraints.txt
	rm -rf .lock

clean:
	rm -rf $(VENV) .lock .mypy_cache .ruff_cache .pytest_cache .hypothesis
