#!/bin/sh
# Install the optional peers of the benchmark, next to the torch that is there:
#
#   pip install torch==2.13.0
#   sh pretraining/benchmark/install.sh [python]
set -eu

python=${1:-python}
case $python in
*/*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;;
esac
cd "$(dirname "$0")/../.."

constraint=$(mktemp)
trap 'rm -f "$constraint"' EXIT
"$python" -c 'import torch; print(f"torch=={torch.__version__}")' > "$constraint"

"$python" -m pip install -c "$constraint" -e ".[benchmark]"
# d3rlpy 2.8.1 pins gymnasium 1.0.0 and works with later ones. What else it needs is in
# the extra.
"$python" -m pip install --no-deps d3rlpy==2.8.1
# 2.2507 pins numpy 1.24.3 and scipy 1.15.2; our adapter runs it with numpy 2.
"$python" -m pip install --no-deps statisticalrl-learners==2.2507

"$python" - "$constraint" << 'CHECK'
import sys
from importlib.metadata import version
from pathlib import Path

import d3rlpy, icu_sepsis, mdptoolbox, quantecon, rliable  # noqa: F401
import stable_baselines3, statisticalrl_learners, xenoverse.anymdp  # noqa: F401

kept = Path(sys.argv[1]).read_text().strip().removeprefix("torch==")
if version("torch") != kept:
    sys.exit(f"torch must stay {kept}. Found {version('torch')}.")
for name in (
    *("torch", "gymnasium", "numpy", "pandas", "rliable", "arch", "d3rlpy"),
    *("stable-baselines3", "quantecon", "pymdptoolbox", "icu-sepsis", "xenoverse"),
    "statisticalrl-learners",
):
    print(f"{name}=={version(name)}")
CHECK
