"""tabrl: a pretrained network that turns logged transitions into a policy.

One estimator for logs, one agent that explores, both from the same checkpoint:

    from tabrl import OfflinePolicyEstimator, OnlineAgent

    policy = OfflinePolicyEstimator(gamma=0.99).fit(transitions)
    policy.predict(states)

    agent = OnlineAgent(reward_range=(0, 1)).learn(env, n_episodes=50)
    agent.predict(states)
"""

from tabrl import datasets
from tabrl._checkpoint import CheckpointError, fetch_checkpoint
from tabrl._dead_ends import DeadEndWarning
from tabrl._display import ActionValueDisplay, PolicyDisplay, RegretDisplay
from tabrl._evaluation import SmallSampleWarning
from tabrl._offline import OfflinePolicyEstimator
from tabrl._online import OnlineAgent
from tabrl._policy_value import PolicyValue
from tabrl._sufficient import SufficientStatistics

__version__ = "0.1.0"

__all__ = [
    "ActionValueDisplay",
    "CheckpointError",
    "DeadEndWarning",
    "OfflinePolicyEstimator",
    "OnlineAgent",
    "PolicyDisplay",
    "PolicyValue",
    "RegretDisplay",
    "SmallSampleWarning",
    "SufficientStatistics",
    "__version__",
    "datasets",
    "fetch_checkpoint",
]
