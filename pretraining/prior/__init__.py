"""The prior over decision processes: one file a family, rng to process."""

from pretraining.prior import corridors, graphs, layers, mazes
from pretraining.prior._process import Process, log_uniform

FAMILIES = {
    "graphs": graphs.sample,
    "mazes": mazes.sample,
    "corridors": corridors.sample,
    "layers": layers.sample,
}

__all__ = ["FAMILIES", "Process", "log_uniform"]
