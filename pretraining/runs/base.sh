#!/usr/bin/env bash
# Regenerates the released checkpoint, in hours on two CPU cores: the first stage has
# four families of up to 100 states; the second begins with its weights and has all
# families, up to 256 states and 16 actions. A run that was interrupted goes on where
# it stopped when this is called again.
#     pretraining/runs/base.sh [RUN]
set -eu
cd "$(dirname "$0")/../.."
run=${1:-runs/base}
first=$run/first
python3 -m pretraining.train --config pretraining/runs/base.json --out "$first" \
    --device cpu --threads 2
python3 -m pretraining.export --run "$first" --out "$first/checkpoint"
python3 -m pretraining.train --config pretraining/runs/wide.json --out "$run" \
    --device cpu --threads 2 --initial "$first/checkpoint"
python3 -m pretraining.optimism --run "$run"
python3 -m pretraining.validate --run "$run"
python3 -m pretraining.export --run "$run" --out "$run/checkpoint"
python3 -m pretraining.benchmark offline --checkpoint "$run/checkpoint" --tabrl-only \
    > "$run/benchmark.md"
python3 -m pretraining.export --run "$run" --out tabrl/checkpoint \
    --benchmark "$run/benchmark.md"
