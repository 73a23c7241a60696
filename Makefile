# make demo   a first run, including the installation
# make test   style, types, layers and the whole test suite; ends with what was skipped and what to install for it
# make test-fast   about a minute, for daily work: one law of every option, and the parts that everything depends on
# make docs   the documentation as a site in site/; a broken link is an error
# make picture   the README's picture, from a new run of its sweep
# make reproduce STUDY=lenet_cifar10   runs a study and writes docs/results/lenet_cifar10.md
# make deploy-demo   server and nodes over Flower on this machine, with TLS and keys
# make fault-check   every way a run can be stopped, and what it leaves behind
# make sbom   the installed packages with their licences, in .sbom/
# make dashboard   a page that compares the runs in logs/
# make check   style, types and layers alone
# make bench, bench-gpu, bench-peers   the benchmarks; make gpu-check   what must hold on a GPU
# make lock, hashes   new versions, or new hashes, of the pinned packages
# make clean   removes the virtual environment and what the tools made
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo deploy-demo test test-fast check docs picture reproduce dashboard lock hashes sbom fault-check bench \
  bench-gpu bench-peers gpu-check clean

demo: $(STAMP)
	$(BIN)/python train.py

# ARGS: further options, such as --folder FOLDER, which keeps its files
deploy-demo: $(STAMP)
	$(BIN)/python -m pffdst deploy demo $(ARGS)

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --session-timeout 1560

FAST := tests/core tests/wire tests/cost tests/metrics tests/models tests/runs tests/loggers tests/measure \
  tests/contracts/test_laws.py tests/config/test_check.py tests/config/test_label.py tests/test_size_rule.py
test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -n 2 --dist loadfile $(FAST)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/zensical build --clean --strict

picture: $(STAMP)
	$(BIN)/python train.py -m sweep=sparsity_by_method sparsity=0.9,0.95 seed=0,1,2,3,4 eval_every=10 logger=csv \
	 hydra.sweep.dir=logs/readme
	$(BIN)/python -m pffdst.report logs/readme --png logs/readme/figures
	cp logs/readme/figures/accuracy_by_bytes.png docs/report.png

# DATA: the dataset's folder, if not in data/; JOBS: runs in parallel; ARGS: further options, such as --minutes 60
ifeq ($(STUDY),)
reproduce:
	@echo "write e.g. make reproduce STUDY=lenet_cifar10"; exit 2
else
reproduce: $(STAMP)
	$(BIN)/python -m reproduce "$(STUDY)" $(if $(DATA),--data "$(DATA)") --jobs $(or $(JOBS),1) $(ARGS)
endif

dashboard: $(STAMP)
	$(BIN)/python -m pffdst.report logs -o logs/report.html

bench: $(STAMP)
	$(BIN)/python benchmarks/client_training.py
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/server.py
	$(BIN)/python benchmarks/host.py
	$(BIN)/python benchmarks/tiny_client.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/population.py
	$(BIN)/python benchmarks/wire.py
	$(BIN)/python benchmarks/wire_fuzz.py
	$(BIN)/python benchmarks/codecs.py
	$(BIN)/python benchmarks/report.py
	$(BIN)/python benchmarks/page_server.py

# On a host with a CUDA device; `make bench-gpu DEVICE=cpu` rehearses it at tiny sizes anywhere.
DEVICE ?= cuda
REHEARSED = $(if $(filter cpu,$(DEVICE)),--results $(or $(TMPDIR),/tmp)/pffdst-rehearsal)
bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py --device $(DEVICE) $(REHEARSED)
	$(BIN)/python benchmarks/engines.py --device $(DEVICE) $(if $(REHEARSED),--quick) $(REHEARSED)

# Checks engine=batched on this GPU in under two minutes; DEVICE=cpu rehearses the checks anywhere
gpu-check: $(STAMP)
	$(BIN)/python benchmarks/gpu_check.py --device $(DEVICE)

# FedAvg compared with pfl-research, Flower, BlazeFL and a bare loop, in separate environments under PEERS (about 4 GB);
# half an hour on two quiet cores, ten minutes for the environments. DATA: a folder with CIFAR-10; ARGS: --repetitions 1
PEERS ?= .peers
bench-peers: $(STAMP)
	$(BIN)/python benchmarks/peers/setup.py $(PEERS) $(if $(DATA),--data $(DATA))
	$(BIN)/python benchmarks/peers/race.py $(PEERS) $(if $(DATA),--data $(DATA)) $(ARGS)

# On Linux, every installed file is checked against the hashes in requirements.lock. Other systems use different
# wheels (such as torch without CUDA), so there only the versions are fixed.
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

# Run this after adding or changing a line in constraints.txt.
hashes:
	rm -rf .lock && $(PYTHON) -m venv .lock && .lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	(cat constraints.txt; echo setuptools==84.2.1) > .lock/wanted.txt
	(echo '# What constraints.txt names, with the sha256 of every file that may be installed. Made by `make hashes`.'; \
	 .lock/bin/uv pip compile --quiet --no-deps --generate-hashes --no-annotate --no-header .lock/wanted.txt) > .lock/made
	mv .lock/made requirements.lock && rm -rf .lock

# .sbom/sbom.json (CycloneDX) and .sbom/licences.md, made by tools in a separate environment.
sbom: $(STAMP)
	test -x .sbom/venv/bin/python || $(PYTHON) -m venv .sbom/venv
	.sbom/venv/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 pip-licenses==5.5.5
	.sbom/venv/bin/cyclonedx-py environment $(BIN)/python --output-file .sbom/sbom.json
	.sbom/venv/bin/pip-licenses --python=$(BIN)/python --format=markdown --with-urls --output-file=.sbom/licences.md

fault-check: $(STAMP)
	$(BIN)/python benchmarks/fault_check.py

clean:
	rm -rf $(VENV) .lock .sbom .peers site .mypy_cache .ruff_cache .pytest_cache .hypothesis
