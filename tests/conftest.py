"""What tests share: how property tests draw their examples, and a tiny training."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from pretraining.recipe.train import TrainConfig
from tabrl._network import NetworkConfig

# The same examples everywhere, however slow the machine.
settings.register_profile(
    "tabrl",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tabrl")


@pytest.fixture
def tiny() -> TrainConfig:
    """A training of a second."""
    return TrainConfig(
        n_steps=2,
        groups_per_step=1,
        pairs_per_group=30,
        max_states=4,
        large_share=0,
        network=NetworkConfig(width=8, n_layers=2, n_heads=2, mlp_ratio=1),
    )
