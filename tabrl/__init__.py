"""tabrl: a pretrained network that turns logged transitions into a policy.

from tabrl import OfflinePolicyEstimator

policy = OfflinePolicyEstimator(gamma=0.99).fit(transitions)
policy.predict(states)
"""

from tabrl._checkpoint import CheckpointError
from tabrl._offline import OfflinePolicyEstimator

__version__ = "0.1.0"

__all__ = ["CheckpointError", "OfflinePolicyEstimator", "__version__"]
