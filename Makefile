# make demo   a first run, from nothing
# make test   style, types, layers and the whole test suite
# make reproduce STUDY=lenet_cifar10   plays a study and writes docs/results/lenet_cifar10.md
# make dashboard   a page that compares the runs in logs/
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check reproduce dashboard lock bench bench-gpu clean

demo: $(STAMP)
	$(BIN)/python train.py

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 --session-timeout 1500

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# DATA: the folder of the dataset, where it is not in data/; JOBS: runs side by side; ARGS: more, such as --minutes 60
reproduce: $(STAMP)
	@test -n "$(STUDY)" || { echo "write e.g. make reproduce STUDY=lenet_cifar10"; exit 2; }
	$(BIN)/python -m reproduce $(STUDY) $(if $(DATA),--data $(DATA)) --jobs $(or $(JOBS),1) $(ARGS)

dashboard: $(STAMP)
	$(BIN)/python -m pffdst.report logs -o logs/report.html

bench: $(STAMP)
	$(BIN)/python benchmarks/client_training.py
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/server.py
	$(BIN)/python benchmarks/host.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/population.py
	$(BIN)/python benchmarks/wire.py
	$(BIN)/python benchmarks/wire_fuzz.py
	$(BIN)/python benchmarks/codecs.py
	$(BIN)/python benchmarks/report.py

# On a host with a CUDA device; `make bench-gpu DEVICE=cpu` rehearses it at tiny sizes anywhere.
DEVICE ?= cuda
REHEARSED = $(if $(filter cpu,$(DEVICE)),--results $(or $(TMPDIR),/tmp)/pffdst-rehearsal)
bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py --device $(DEVICE) $(REHEARSED)
	$(BIN)/python benchmarks/engines.py --device $(DEVICE) $(if $(REHEARSED),--quick) $(REHEARSED)

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
