# Each target does its own set-up on a fresh Debian or Ubuntu with Python 3.11 or newer.
#
#   make demo     start a small PACS and the worker, send two heads, show the reports that come back
#   make test     the whole test suite; installs DCMTK, Orthanc, DICOM and FHIR validators, PostgreSQL, Chromium,
#                 promtool and OHIF when it may, and names what it had to skip
#   make check    format, lint, types, import arrows
#   make vulnerabilities   the pinned packages against known advisories
#   make wheel    build dist/*.whl
#   make docs     the documentation as a site into var/site/html; opens without a server, searches offline
#   make screenshots   docs/screenshots, in a headless Chromium; those of OHIF where it is installed
#   make ohif     the OHIF viewer into var/ohif (50 MB, from npm); the worker then shows it at /ohif/
#   make fhir-validators   two validators of HL7 FHIR into var/fhir (2 MB, from npm)
#   make soak     faults under load, counted (hours; a stopped run goes on), into docs/reliability.md:
#                 ONLY=kills,hosts runs these rows, PART=0.1 a tenth of their length, FRESH=1 forgets earlier rows
#   make seeds    the five earlier systems and ours on the pictures in DATA=folder: hours, a stopped run goes on;
#                 QUICK=1 takes 5 % of the pictures; writes docs/reference-systems.md
#   make evaluate-default   the default model's figures, patients apart, on the pictures in DATA=folder; CROSSVAL=report.json and
#                           SERIES_TYPE=file add what `monai-train crossval` and benchmarks/series_type.py --json wrote
#   make bench              every benchmark into docs/performance.md: an hour or so, idle machine! ONLY=start,scale runs
#                           these; BRAIN_MRI_DATA=folder compares int8 with fp32 on its pictures
#   make bench-train        training throughput against MONAI's tutorial pipeline (BENCH="--rounds 9" ...): idle machine!
#
# PYTHON=python3.12 make demo chooses another interpreter.

# Compiled modules are kept, whatever the environment says: without, each of some hundred processes that the tests start
# compiles all that it imports anew.
export PYTHONDONTWRITEBYTECODE :=
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OHIF ?= var/ohif
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check format soak wheel system-packages

help:
	@sed -n 's/^#   //p' Makefile

# The constraints pin every package, so the same commit installs the same versions anywhere.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(MAKE) --no-print-directory python-venv
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned Python packages into $(VENV) (several minutes the first time) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

.PHONY: python-venv
python-venv:
	@.ci/install-packages python3-venv

system-packages:
	@.ci/install-packages dcmtk orthanc orthanc-dicomweb dicom3tools pixelmed-apps

# What else the tests try the worker with. Each is fetched once; a test without its program is skipped and says so.
.PHONY: test-programs
test-programs: system-packages
	@.ci/install-packages chromium prometheus
	@command -v npm >/dev/null || .ci/install-packages nodejs npm
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || .ci/install-packages postgresql
	@test -e $(OHIF)/index.html || .ci/install-ohif $(OHIF) || echo "OHIF cannot be fetched: its tests are skipped."
	@test -e var/fhir/fhir.schema.json || .ci/install-fhir-validators var/fhir \
	  || echo "The FHIR validators cannot be fetched: their tests are skipped."

demo: $(STAMP)
	@$(BIN)/python -m tests.demo

# Three processes on two processors: while a test waits for a server, the others run. tests/conftest.py has the order.
test: $(STAMP) test-programs
	@timeout --kill-after=60 4000 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

DATA ?= $(BRAIN_MRI_DATA)
.PHONY: seeds
seeds: $(STAMP)
	@test -n "$(DATA)" || { echo "Say where the pictures are: make seeds DATA=folder"; exit 1; }
	@$(BIN)/monai-train seeds "$(DATA)" $(if $(QUICK),--quick 0.05) --document docs/reference-systems.md $(SEEDS)

.PHONY: evaluate-default bench-train
evaluate-default: $(STAMP)
	@test -n "$(DATA)" || { echo "Say where the pictures are: make evaluate-default DATA=folder"; exit 1; }
	@$(BIN)/monai-train evaluate-default "$(DATA)" $(if $(CROSSVAL),--crossval "$(CROSSVAL)") \
	  $(if $(SERIES_TYPE),--series-type "$(SERIES_TYPE)")

bench-train: $(STAMP)
	@PYTHONPATH=. $(BIN)/python -W ignore benchmarks/training_throughput.py $(BENCH)

.PHONY: bench
bench: $(STAMP) system-packages
	@.ci/install-packages postgresql
	@PYTHONPATH=. $(BIN)/python -W ignore benchmarks/bench.py $(if $(ONLY),--only $(ONLY))

format: $(STAMP)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: docs
docs: $(STAMP)
	@$(BIN)/python docs/build_site.py

.PHONY: screenshots
screenshots: $(STAMP)
	@$(BIN)/python -m tests.acceptance.test_pages docs/screenshots
	@if test -e $(OHIF)/index.html; then OHIF=$(OHIF) $(BIN)/python -m tests.acceptance.test_ohif docs/screenshots; \
	  else echo "No OHIF in $(OHIF) (make ohif): ohif.png and ohif-report.png stay as they are."; fi

.PHONY: ohif
ohif:
	@.ci/install-ohif $(OHIF)

.PHONY: fhir-validators
fhir-validators:
	@.ci/install-fhir-validators var/fhir

soak: $(STAMP) system-packages
	@.ci/install-packages postgresql gcc libc6-dev
	@$(BIN)/python -m tests.faults.soak --document docs/reliability.md \
	  $(if $(ONLY),--only $(ONLY)) $(if $(PART),--part $(PART)) $(if $(FRESH),--fresh)

.PHONY: vulnerabilities
vulnerabilities: $(STAMP)
	@$(BIN)/python -m tests.advisories

wheel: $(STAMP)
	@rm -f dist/brain_mri_worker-*.whl
	@$(BIN)/python -m build --wheel
