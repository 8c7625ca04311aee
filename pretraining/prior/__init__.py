"""The prior over decision processes: one file a family, rng to process."""

from pretraining.prior import (
    bandits,
    bands,
    corridors,
    dense,
    garnet,
    graphs,
    layers,
    mazes,
    operations,
    rooms,
    traps,
)
from pretraining.prior._process import Process, log_uniform
from pretraining.prior.variations import price_actions, restrict_actions

FAMILIES = {
    "graphs": graphs.sample,
    "mazes": mazes.sample,
    "corridors": corridors.sample,
    "layers": layers.sample,
    "garnet": garnet.sample,
    "bandits": bandits.sample,
    "operations": operations.sample,
    "bands": bands.sample,
    "traps": traps.sample,
    "rooms": rooms.sample,
    "dense": dense.sample,
}

__all__ = ["FAMILIES", "Process", "log_uniform", "price_actions", "restrict_actions"]
