# make            list the targets
# make demo       everything: install, download, train; then open results/report.html
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: help install demo test test-bf16 slow torture check bench bench-table lock record push pull adopt clean

VENV := .venv
# As pyproject.toml says.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
# That of .venv, else the first that fits: a name on PATH may be an empty shim. The versions in requirements.lock were tested with
# Python 3.11; `make PYTHON=/path/to/python` selects another.
PYTHON ?= $(shell for python in $(VENV)/bin/python python3.11 python3.12 python3.13 python3; do \
  if $$python -c '$(FITS)'; then echo $$python; exit; fi; done 2>/dev/null; echo python3)
version = $$($(1) -c 'import sys; print(sys.version)' 2>/dev/null)
# Every job is a process of its own, so Python always caches its bytecode.
export PYTHONDONTWRITEBYTECODE :=
ACTIVATE := source $(VENV)/bin/activate
# Ctrl-C interrupts make, too, which ends with a status of its own. A recipe that then does not fail adds no line to Snakemake's two.
QUIETLY := trap 'exit 0' INT;
# Named after the versions installed, so that neither a second call nor a fresh checkout installs again.
STAMP := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml | cksum | cut -d ' ' -f 1)

# One test process per core. Each loads torch, so at most eight.
SIDE_BY_SIDE := -n logical --maxprocesses 8 --dist loadfile
PYTEST := OMP_NUM_THREADS=1 python -m pytest $(SIDE_BY_SIDE)
# Tests state the precision that they mean; these leave it to `auto`, or look at what each precision changes.
NUMERIC := tests/test_benchmarks.py tests/test_runtime.py tests/retrieval \
  $(addprefix tests/training/test_,device.py memory.py half_precision.py) \
  $(addprefix tests/images/test_,pool.py efficientnet.py hub_vision.py embeddings.py cli_images.py)

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-11s %s\n", $$1, $$2}'

install: $(STAMP)  ## create .venv with the versions of requirements.lock (about a minute, once)

# Create a virtual environment. In one of another version, `venv` alone would keep that version.
define venv
@$(PYTHON) -c '$(FITS)' 2>/dev/null || { \
  echo "error: Python 3.11 to 3.13 is needed"; \
  echo "  found:    $(PYTHON): $$($(PYTHON) --version 2>&1 || true)"; \
  echo "  what now: install it, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
@[ "$(call version,$(1)/bin/python)" = "$(call version,$(PYTHON))" ] && clear= || clear=--clear; \
  $(PYTHON) -m venv $$clear $(1)
endef

.PHONY: python-as-given
python-as-given:
	@[ "$(origin PYTHON)" = file ] || [ ! -e $(VENV)/bin/python ] || \
	  [ "$(call version,$(VENV)/bin/python)" = "$(call version,$(PYTHON))" ] || { \
	  echo "error: $(VENV) has another Python than the one given"; \
	  echo "  found:    $(call version,$(VENV)/bin/python)"; \
	  echo "  expected: $(PYTHON): $(call version,$(PYTHON))"; \
	  echo "  what now: rm -rf $(VENV), then the same command again; or leave PYTHON out"; exit 1; }

$(STAMP): | python-as-given
	@echo "Installing into $(VENV), once ..."
	$(call venv,$(VENV))
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: install  ## the whole reproduction on the embedded data set: download, train, tables, report
	@echo
	@echo "ViXML on PICTO, the embedded data set: nine runs from download to report, on this machine, without a GPU."
	@echo "It downloads 236 MB, needs 4 GB of memory and 4 GB of disk, and takes about 6 minutes on two idle cores (15 minutes"
	@echo "without AVX-512 BF16 or AMX), mostly for training. You can interrupt it; running it again resumes."
	@echo
	@$(QUIETLY) $(ACTIVATE) && snakemake paper_tables --cores all --quiet host reason
	@echo
	@$(ACTIVATE) && vixml summary
	@echo
	@echo "To tag something with the model that was just trained, on a page in your browser:"
	@echo "  source $(VENV)/bin/activate"
	@echo "  vixml pack picto vixml-minilm-l3 --out picto.model"
	@echo "  vixml serve --model picto.model        # then open http://127.0.0.1:8000 and try: fishing rod"

test: install  ## run the tests, with `auto` as float32 (about five minutes on two idle cores)
	@$(ACTIVATE) && $(PYTEST) -m "not slow"

test-bf16: install  ## run the tests that depend on `auto` again in bfloat16, which every processor supports (a minute)
	@$(ACTIVATE) && VIXML_PRECISION=bf16 $(PYTEST) -m "not slow" $(NUMERIC)

slow: install  ## run the slow tests: the demo with conda; conda, DVC and SLURM to the same bytes, killed and resumed (ten minutes on two idle cores)
	@$(ACTIVATE) && $(PYTEST) -m slow --durations 10

# `make torture CASES=200 SEED=5` tries others; tests/torture/run.py --help lists the kinds.
CASES := 2000
SEED := 0
torture: install  ## try 2,000 hostile and odd cases: damaged files, kills, disks, servers, images (a quarter of an hour on two idle cores)
	@$(ACTIVATE) && python tests/torture/run.py --cases $(CASES) --seed $(SEED)

check: install  ## run the other checks of a change: style, lint, generated files, slow tests
	@$(ACTIVATE) && ruff check .
	@$(ACTIVATE) && ruff format --check .
	@$(ACTIVATE) && snakefmt --check Snakefile rules
	@$(ACTIVATE) && snakemake --lint
	@$(ACTIVATE) && vixml document-config --check
	@$(ACTIVATE) && python envs/pins.py check
	@$(ACTIVATE) && vixml summary --reference results/reference/picto-summary.json --layout readme --readme README.md --check
	@$(ACTIVATE) && vixml summary --reference results/reference/picto-summary.json --readme docs/results.md --check
	@$(ACTIVATE) && vixml summary --reference results/reference/picto-methods-summary.json --readme docs/results.md \
	  --place methods --check
	@$(ACTIVATE) && vixml summary --reference results/reference/picto-best-summary.json --layout best --readme docs/results.md \
	  --place best --check
	@$(ACTIVATE) && vixml reproduction --check
	@$(MAKE) --no-print-directory slow

bench: install  ## run the benchmarks, on an idle machine, and print one table (benchmarks/README.md)
	@$(QUIETLY) $(ACTIVATE) && snakemake data images --cores all --quiet host reason
	@$(ACTIVATE) && for script in clustering search metrics index ridge attention pooling training_step decoder_step; do \
	  echo "== benchmarks/$$script.py"; python "benchmarks/$$script.py"; done
	@$(ACTIVATE) && python benchmarks/training_step.py --threads 2 --out benchmarks/results/training_step-2threads.json
	@$(MAKE) --no-print-directory bench-table

bench-table: install  ## print the table of benchmarks without running them
	@$(ACTIVATE) && python benchmarks/table.py

lock: install  ## pin the newest versions that pyproject.toml allows, and write every environment file
	@$(ACTIVATE) && python envs/pins.py lock
	@$(MAKE) --no-print-directory install
	@$(ACTIVATE) && python envs/pins.py write

# A kill can cut DVC's list of running commands, and DVC refuses to run with half of one.
MEND := python -c 'from pathlib import Path; from vixml.check.doctor import mend_rwlock; [print(said) for said in [mend_rwlock(Path("."))] if said]'

record:  ## record Snakemake's results in DVC, so that `dvc status` is clean and `dvc push` shares them (docs/dvc.md)
	@$(ACTIVATE) && $(MEND) && dvc commit --force --quiet && dvc status

push:  ## push the results that DVC recorded to its default remote, after checking that the remote exists
	@$(ACTIVATE) && $(MEND) && vixml check-remote && dvc push

pull:  ## in a fresh clone: fetch results from DVC's default remote, and mark them as up to date
	@$(ACTIVATE) && $(MEND) && vixml check-remote --filled && dvc pull
	@$(MAKE) --no-print-directory adopt

adopt:  ## after `dvc pull` in a fresh clone: mark pulled results as up to date
	@$(ACTIVATE) && $(MEND) && if [ -n "$$(dvc status --quiet || echo changed)" ]; then \
	  echo "error: results and dvc.lock differ"; echo "  what now: dvc status says where; dvc pull, or dvc repro"; exit 1; fi
	@$(QUIETLY) $(ACTIVATE) && configfile=$$(sed -n 's/^configfile: //p' params.yaml) && \
	  snakemake data images paper_tables --touch --forceall --cores 1 --quiet all --configfile "$$configfile" --config pages=results

clean:  ## remove all results except downloads (results/raw) and committed results (results/reference)
	@if [ -d results ]; then find results -mindepth 1 -maxdepth 1 ! -name raw ! -name reference -exec rm -rf {} +; fi

# Tests of code that uses torch, transformers, peft, tokenizers and the hub's client.
FOLDERS := tests/models tests/config/test_paper_models.py tests/training tests/retrieval tests/images tests/data/test_tokens.py tests/data/test_download.py

.PHONY: test-lowest test-highest
test-lowest:  ## run the library tests with the lowest versions that pyproject.toml allows (a CUDA build of torch, 3 GB)
	$(call venv,.venv-lowest)
	@.venv-lowest/bin/python -m pip install -qq --disable-pip-version-check -r envs/lowest.txt "setuptools>=77"
	@PYTHONPATH=src OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -m "not slow" $(SIDE_BY_SIDE) --dist loadfile $(FOLDERS)

test-highest:  ## run the library tests with the newest versions; `make PYTHON=python3.13 test-highest` selects another Python
	$(call venv,.venv-highest)
	@.venv-highest/bin/python -m pip install -qq --disable-pip-version-check --upgrade ".[dev,gpu]"
	@PYTHONPATH=src OMP_NUM_THREADS=1 .venv-highest/bin/python -m pytest -m "not slow" $(SIDE_BY_SIDE) --dist loadfile $(FOLDERS)
