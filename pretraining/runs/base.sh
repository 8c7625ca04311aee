#!/usr/bin/env bash
# Regenerates the released checkpoint: about 90 minutes on two CPU cores. A run that
# was interrupted goes on where it stopped when this is called again.
set -eu
cd "$(dirname "$0")/../.."
run=${1:-runs/base}
python3 -m pretraining.train --config pretraining/runs/base.json --out "$run" --threads 2
python3 -m pretraining.validate --run "$run"
python3 -m pretraining.export --run "$run" --out "$run/checkpoint"
python3 -m pretraining.benchmark offline --checkpoint "$run/checkpoint" \
    > "$run/benchmark.md"
python3 -m pretraining.export --run "$run" --out tabrl/checkpoint \
    --benchmark "$run/benchmark.md"
