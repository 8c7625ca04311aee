"""In-context peer: the seed's model, which learns to plan instead of planning.

    python -m pretraining.benchmark.baselines.seed_model --out runs/seed --minutes 60

Written from the description in "Reinforcement Learning Foundation Models Should
Already Be A Thing" (Zighem and Vie, arXiv 2606.18812), without its code: layers of
attention from pairs to their successors, all with the same weights, read the counts
of a data set and end in a policy, which soft cross-entropy trains towards the optimal
actions of processes that are random graphs. Features and contexts are those of our
own pretraining: a quarter of the contexts are independent draws, as all of the
paper's are, the others logs. Groups with one state, about a sixth of the stream, are
bandits.

``model`` has the network, ``training`` its training, ``offline`` the policies from a
log; the online learner is registered with the others, in ``baselines/online``.
"""

from pretraining.benchmark.baselines.seed_model.model import SeedModel, load
from pretraining.benchmark.baselines.seed_model.offline import (
    SEED_GREEDY,
    SEED_SAMPLED,
    policies,
)

__all__ = ["SEED_GREEDY", "SEED_SAMPLED", "SeedModel", "load", "policies"]
