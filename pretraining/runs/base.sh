#!/usr/bin/env bash
# Regenerates the released checkpoint, in two to three hours on two CPU cores: trains
# (eighty minutes), chooses the optimism, validates, benchmarks and exports. A run that
# was interrupted goes on where it stopped when this is called again.
#     pretraining/runs/base.sh [RUN]
set -eu
cd "$(dirname "$0")/../.."
run=${1:-runs/base}
python3 -m torch.distributed.run --standalone --nproc-per-node 2 \
    -m pretraining.train --config pretraining/runs/base.json --out "$run" \
    --device cpu --threads 1
python3 -m pretraining.optimism --run "$run" --per-family 32 --episodes 60 --jobs 2
python3 -m pretraining.validate --run "$run"
python3 -m pretraining.export --run "$run" --out "$run/checkpoint"
python3 -m pretraining.benchmark offline --checkpoint "$run/checkpoint" --tabrl-only \
    > "$run/benchmark.md"
python3 -m pretraining.export --run "$run" --out tabrl/checkpoint \
    --benchmark "$run/benchmark.md"
