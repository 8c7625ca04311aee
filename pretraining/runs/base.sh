#!/usr/bin/env bash
# The bundled checkpoint, on two CPU cores: trains (6,000 steps, an hour and a
# half, then more, thrice, with the rate raised again), chooses the optimism, validates,
# benchmarks and exports. The training is done: a new run takes its manifest and its
# state from base/. Without them it begins at step 0 and makes other weights, as most of
# those were trained with fewer losses. A run that was interrupted goes on where it
# stopped when this is called again.
#     pretraining/runs/base.sh [RUN]
set -eu
cd "$(dirname "$0")/../.."
run=${1:-runs/base}
trained=pretraining/runs/base
mkdir -p "$run"
if [ ! -e "$run/state.pt" ] && [ -e "$trained" ]; then
    cp "$trained/manifest.json" "$trained/state.pt" "$run"
fi
for steps in 6000 12000 17000 21000; do
    python3 -m torch.distributed.run --standalone --nproc-per-node 2 \
        -m pretraining.recipe.train --config pretraining/runs/base.json --steps "$steps" \
        --out "$run" --device cpu --threads 1
done
python3 -m pretraining.validation.optimism --run "$run" --per-family 48 --episodes 300 --jobs 2
python3 -m pretraining.validation.validate --run "$run" --per-cell 512
python3 -m pretraining.recipe.export --run "$run" --out "$run/checkpoint"
python3 -m pretraining.benchmark offline --checkpoint "$run/checkpoint" --tabrl-only \
    > "$run/benchmark.md"
python3 -m pretraining.benchmark online --checkpoint "$run/checkpoint" --tabrl-only \
    > "$run/online.md"
# It is released, by the next command, only if it wins on both and in the validation:
#     python3 -m pretraining.recipe.export --run "$run" --out tabrl/checkpoint \
#         --benchmark "$run/benchmark.md"
