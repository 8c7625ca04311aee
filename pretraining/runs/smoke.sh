#!/usr/bin/env bash
# The whole path in a minute or two on two CPU cores: trains a tiny network on every
# family, validates and exports it, and fits an estimator with the checkpoint.
#     pretraining/runs/smoke.sh [RUN]
set -eu
cd "$(dirname "$0")/../.."
run=${1:-runs/smoke}
python3 -m pretraining.recipe.train --config pretraining/runs/smoke.json --out "$run" \
    --device cpu --threads 1
python3 -m pretraining.validation.validate --run "$run" --per-cell 8
python3 -m pretraining.recipe.export --run "$run" --out "$run/checkpoint"
cat > "$run/log.csv" <<LOG
state,action,reward,next_state,terminated
home,wait,0,home,false
home,leave,-1,road,false
road,wait,0,road,false
road,leave,5,town,true
LOG
python3 -m tabrl fit "$run/log.csv" --checkpoint "$run/checkpoint" -o "$run/policy.csv"
python3 -m tabrl info "$run/checkpoint"
