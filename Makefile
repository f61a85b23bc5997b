# make demo    the embedded study, to results/demo/report.html
# make real    a real small model on real corpora, to results/smollm2/report.html
# make test    the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
CORES ?= 2
STUDY ?= demo

.PHONY: demo test test-slow test-browser test-kills test-s3 test-slurm demo-seeds real lint format clean help

demo: $(VENV)/.installed  ## the embedded study, to results/demo/report.html
	snakemake --cores $(CORES) --configfile config/demo.yaml

test: $(VENV)/.installed-dev  ## the tests that need no training
	python -m pytest -n $(CORES) --dist loadfile -m "not slow and not browser and not kills and not s3 and not slurm"

test-slow: $(VENV)/.installed-dev  ## the tests that train models or run the workflow
	python -m pytest -n $(CORES) --dist loadgroup -m slow

test-browser: $(VENV)/.installed-dev  ## the annotation page and the report in a headless Chromium, if one is installed
	python -m pytest -m browser

test-kills: $(VENV)/.installed-dev  ## a study whose processes are killed, against one left alone
	python -m pytest -m kills -s tests/workflow/test_interruptions.py

test-slurm: $(VENV)/.installed-dev  ## a part of a study on a cluster of this machine, if SLURM is installed (.ci/outside does it)
	python -m pytest -m slurm -s tests/workflow/test_slurm.py

test-s3: $(VENV)/.installed-dev  ## a study whose files are in S3, if what that takes is installed (.ci/outside does it)
	python -m pytest -m s3 tests/workflow/test_s3.py

demo-seeds: demo  ## the embedded study with two more seeds, and a table of the three
	for seed in 2 3; do \
	    snakemake evaluation --cores $(CORES) --configfile config/demo.yaml --config seed=$$seed study=demo-seed-$$seed || exit; \
	done
	python benchmarks/seeds.py --studies results/demo results/demo-seed-2 results/demo-seed-3

real: $(VENV)/.installed  ## a real small model on real corpora: those in the folder $$PERSUASION_RL_CORPORA, else downloaded
	snakemake --cores $(CORES) --configfile config/smollm2.yaml

lint: $(VENV)/.installed-dev  ## format and lint, as CI checks them
	ruff format --check .
	ruff check .
	snakefmt --format-shell --check Snakefile workflow
	snakemake --lint
	hadolint envs/Containerfile

format: $(VENV)/.installed-dev
	ruff format .
	ruff check --fix .
	snakefmt --format-shell Snakefile workflow

clean:  ## remove what a study made (STUDY=demo), but not its state/
	@case "$(STUDY)" in ""|.*|*/*) echo "error: STUDY: the name of a folder in results/" >&2; exit 1;; esac
	if [ -d "results/$(STUDY)" ]; then find "results/$(STUDY)" -mindepth 1 -maxdepth 1 ! -name state -exec rm -rf {} +; fi

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 14

$(VENV)/.installed: envs/requirements.txt envs/requirements-cuda.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("persuasion-rl needs Python 3.11 or 3.12") if sys.version_info[:2] not in ((3, 11), (3, 12)) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --no-compile -r envs/requirements.txt -c envs/requirements-cuda.txt
	$(BIN)/pip install --no-deps --editable .
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib || true  # as pip does, on all cores
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed envs/requirements-dev.txt envs/requirements-notebook.txt envs/requirements-llm.txt envs/requirements-annotate.txt
	$(BIN)/pip install --no-compile -r envs/requirements-dev.txt -r envs/requirements-notebook.txt -r envs/requirements-llm.txt -r envs/requirements-annotate.txt
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib || true
	touch $@
