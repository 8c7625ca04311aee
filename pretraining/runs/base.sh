#!/usr/bin/env bash
# Regenerates the released checkpoint: about 75 minutes on two CPU cores. A run that
# was interrupted goes on where it stopped when this is called again.
set -eu
cd "$(dirname "$0")/../.."
run=${1:-runs/base}
python -m pretraining.train --config pretraining/runs/base.json --out "$run" --threads 1
python -m pretraining.validate --run "$run"
python -m pretraining.export --run "$run" --out tabrl/checkpoint
