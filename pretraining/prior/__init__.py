"""The prior over decision processes: one module a family, rng to process.

Below the recipe, which draws its training data here. A new family is a module with a
function ``sample(rng, n_states, n_actions)`` that returns a `Process`, and one line in
`_MODULES`. The first paragraph of its docstring goes on the model card.
"""

from importlib import import_module

from pretraining.prior._process import Process, log_uniform
from pretraining.prior.variations import price_actions, restrict_actions

# The order is part of every seed: a new family comes last.
_MODULES = (
    "graphs",
    "mazes",
    "corridors",
    "layers",
    "garnet",
    "bandits",
    "operations",
    "bands",
    "traps",
    "rooms",
    "dense",
)
FAMILIES = {name: import_module(f"{__name__}.{name}").sample for name in _MODULES}

__all__ = ["FAMILIES", "Process", "log_uniform", "price_actions", "restrict_actions"]
