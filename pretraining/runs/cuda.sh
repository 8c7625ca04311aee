#!/usr/bin/env bash
# One step of a run on CUDA devices, under ten minutes: trains for MINUTES, checks
# CUDA against the CPU, exports the weights. Call it again to go on; RUN holds all
# that resuming needs (state.pt, metrics.jsonl, manifest.json), a few MB.
#     pretraining/runs/cuda.sh [RUN [MINUTES]]
set -eu
cd "$(dirname "$0")/../.."
run=${1:-runs/cuda}
minutes=${2:-7}
devices=$(python3 -c "import torch; print(torch.cuda.device_count())")
launch=(python3)
if [ "$devices" -gt 1 ]; then
    launch=(python3 -m torch.distributed.run --standalone --nproc-per-node "$devices")
fi
workers=$((($(nproc) - 2) / (devices > 1 ? devices : 1)))
"${launch[@]}" -m pretraining.recipe.train --config pretraining/runs/cuda.json --out "$run" \
    --device cuda --workers "$workers" --minutes "$minutes"
python3 -m pretraining.validation.validate --run "$run" --per-cell 8 --compare cuda
python3 -m pretraining.recipe.export --run "$run" --out "$run/checkpoint"
