#!/usr/bin/env bash
# Snakemake runs this once, with the new environment active, in the workflow's folder: adds vixml itself.
set -euo pipefail
python -m pip install --quiet --no-deps --no-build-isolation --editable .
