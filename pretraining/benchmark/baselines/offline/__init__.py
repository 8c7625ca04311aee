"""Offline methods: each is one file with one class, and one line in this one."""

from __future__ import annotations

from pretraining.benchmark.baselines.offline import seed_model, tabrl
from pretraining.benchmark.baselines.offline.adv_soft_spibb import AdvSoftSPIBB
from pretraining.benchmark.baselines.offline.certainty_equivalence import (
    CertaintyEquivalence,
)
from pretraining.benchmark.baselines.offline.cloning import (
    BehaviourCloning,
    BehaviourPolicy,
)
from pretraining.benchmark.baselines.offline.data import LoggedData, expected_data
from pretraining.benchmark.baselines.offline.dprl import DPRL
from pretraining.benchmark.baselines.offline.duipi import DUIPI
from pretraining.benchmark.baselines.offline.lower_soft_spibb import LowerSoftSPIBB
from pretraining.benchmark.baselines.offline.method import Method
from pretraining.benchmark.baselines.offline.neural import DiscreteBCQ, DiscreteCQL
from pretraining.benchmark.baselines.offline.ramdp import RaMDP
from pretraining.benchmark.baselines.offline.soft_spibb import SoftSPIBB
from pretraining.benchmark.baselines.offline.spibb import SPIBB
from pretraining.benchmark.baselines.offline.vi_lcb import VILCB

__all__ = [
    "BASELINES",
    "NEURAL",
    "LoggedData",
    "Method",
    "expected_data",
    "seed_models",
    "tabrls",
]

# Run on every log.
BASELINES: list[Method] = [
    BehaviourPolicy(),
    BehaviourCloning(),
    CertaintyEquivalence("first"),
    CertaintyEquivalence("random"),
    VILCB("first"),
    VILCB("random"),
    SPIBB(),
    SoftSPIBB(),
    LowerSoftSPIBB(),
    AdvSoftSPIBB(),
    DUIPI(),
    RaMDP(),
    DPRL(),
]
# Run on the few logs that the protocol names: they take seconds each.
NEURAL: list[Method] = [
    DiscreteCQL(),
    DiscreteBCQ(),
]


def tabrls(checkpoint: str) -> list[Method]:
    """Return tabrl's two policies, of one checkpoint."""
    return [
        tabrl.Tabrl(tabrl.GREEDY, checkpoint),
        tabrl.Tabrl(tabrl.SAMPLED, checkpoint),
    ]


def seed_models(folder: str) -> list[Method]:
    """Return the two policies of a trained seed's model."""
    return [
        seed_model.SeedModelMethod(seed_model.GREEDY, folder),
        seed_model.SeedModelMethod(seed_model.SAMPLED, folder),
    ]
