#!/usr/bin/env bash
# One step of a run on a CUDA device, under ten minutes: trains for MINUTES, checks
# CUDA against the CPU, exports the weights. Call it again to go on; RUN holds all
# that resuming needs (state.pt, metrics.jsonl, manifest.json), a few MB.
#     pretraining/runs/cuda.sh RUN [MINUTES]
set -eu
cd "$(dirname "$0")/../.."
run=${1:-runs/cuda}
minutes=${2:-7}
python3 -m pretraining.train --config pretraining/runs/cuda.json --out "$run" \
    --device cuda --workers "$(($(nproc) - 2))" --minutes "$minutes"
python3 -m pretraining.validate --run "$run" --per-cell 16 --compare cuda
python3 -m pretraining.export --run "$run" --out "$run/checkpoint"
