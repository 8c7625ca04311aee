#!/usr/bin/env bash
# Regenerates the released checkpoint: about 90 minutes on two CPU cores. A run that
# was interrupted goes on where it stopped when this is called again.
set -eu
cd "$(dirname "$0")/../.."
run=${1:-runs/base}
python -m pretraining.train --config pretraining/runs/base.json --out "$run" --threads 2
python -m pretraining.validate --run "$run"
python -m pretraining.export --run "$run" --out "$run/checkpoint"
python -m pretraining.benchmark offline --checkpoint "$run/checkpoint" \
    > "$run/benchmark.md"
python -m pretraining.export --run "$run" --out tabrl/checkpoint \
    --benchmark "$run/benchmark.md"
