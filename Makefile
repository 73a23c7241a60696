# make demo   a first run, from nothing
# make test   style, types, layers and the whole test suite
# make reproduce STUDY=lenet_cifar10   plays a study and writes docs/results/lenet_cifar10.md
# make fault-check   every way a run can be ended, and what it leaves
# make sbom   what is installed, with its licences, in .sbom/
# make dashboard   a page that compares the runs in logs/
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check reproduce dashboard lock hashes sbom fault-check bench bench-gpu clean

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

# On Linux every file that is installed is checked against the hashes in requirements.lock. The wheels that other
# systems take (torch without CUDA, say) are others: there the versions alone are fixed.
ifeq ($(shell uname -sm),Linux x86_64)
INSTALL = --require-hashes --no-deps --requirement requirements.lock
ITSELF = --no-deps --no-build-isolation --editable .
else
INSTALL = --constraint constraints.txt --editable '.[dev]'
endif

$(STAMP): pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(INSTALL)
	$(if $(ITSELF),$(BIN)/python -m pip install --quiet --disable-pip-version-check $(ITSELF))
	touch $(STAMP)

lock:
	rm -rf .lock && $(PYTHON) -m venv .lock
	.lock/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	(echo '# Exact versions of the whole set, tested together. Made by `make lock` from a fresh virtual environment.'; \
	 .lock/bin/python -m pip freeze --exclude-editable) > constraints.txt
	rm -rf .lock
	$(MAKE) hashes

# After a line of constraints.txt was added or changed.
hashes:
	rm -rf .lock && $(PYTHON) -m venv .lock && .lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	(cat constraints.txt; echo setuptools==84.2.1) > .lock/wanted.txt
	(echo '# What constraints.txt names, with the sha256 of every file that may be installed. Made by `make hashes`.'; \
	 .lock/bin/uv pip compile --quiet --no-deps --generate-hashes --no-annotate --no-header .lock/wanted.txt) > .lock/made
	mv .lock/made requirements.lock && rm -rf .lock

# .sbom/sbom.json (CycloneDX) and .sbom/licences.md, made by tools in an environment of their own.
sbom: $(STAMP)
	test -x .sbom/venv/bin/python || $(PYTHON) -m venv .sbom/venv
	.sbom/venv/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 pip-licenses==5.5.5
	.sbom/venv/bin/cyclonedx-py environment $(BIN)/python --output-file .sbom/sbom.json
	.sbom/venv/bin/pip-licenses --python=$(BIN)/python --format=markdown --with-urls --output-file=.sbom/licences.md

fault-check: $(STAMP)
	$(BIN)/python benchmarks/fault_check.py

clean:
	rm -rf $(VENV) .lock .sbom .mypy_cache .ruff_cache .pytest_cache .hypothesis
