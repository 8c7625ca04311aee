"""Ablations: each variant differs from the recipe in the one thing that it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pretraining.benchmark.parts import offline
from pretraining.recipe.loss import WEIGHTS
from pretraining.validation import ablations
from pretraining.validation.ablations import (
    Variant,
    kept_result,
    plan_roughly,
    table,
    variants,
)
from pretraining.validation.sets import validation_set
from tabrl._checkpoint import load_network
from tabrl._features import build_features
from tabrl._planning import dense_transitions, plan_dense


def test_every_variant_changes_something(tiny):
    every = variants(tiny.families)
    for name, variant in every.items():
        changed = variant.config(tiny) != tiny or variant.instead
        assert bool(changed) == (name != "as it is")
    assert "bandits" not in every["without bandits"].config(tiny).families


@pytest.mark.parametrize("name", ["AdamW alone", "without the loss regret"])
def test_a_variant_trains_is_scored_and_leaves_no_trace(
    name, tiny, tmp_path, monkeypatch
):
    small = replace(offline.QUICK, environments=("gridworld-3x3",), sizes=(64,))
    monkeypatch.setattr(offline, "QUICK", replace(small, n_seeds=1))
    monkeypatch.setattr(
        ablations, "validation_set", lambda n: list(validation_set(n))[:2]
    )
    variant = variants(tiny.families)[name]
    before = {key: getattr(*key) for key in variant.instead}
    result = kept_result(variant, tiny, tmp_path / "variant")
    assert {key: getattr(*key) for key in variant.instead} == before
    assert result.keys() == {*WEIGHTS, "value", "value_error"}
    plain = kept_result(Variant(), tiny, tmp_path / "plain")
    assert result != plain
    assert kept_result(variant, tiny, tmp_path / "plain") == plain
    assert f"| {name} | {result['regret']:.3f} |" in table({name: result})


def test_a_rough_plan_reaches_a_few_steps_only():
    network = load_network("auto", torch.device("cpu"))
    family, _, _, statistics = next(validation_set(8))
    assert family == "graphs"
    with torch.inference_mode():
        features = build_features(statistics)
        _, posterior = network(features)
        P = dense_transitions(posterior, features)
        rough, exact = (
            plan(posterior, features, P) for plan in (plan_roughly, plan_dense)
        )
    assert rough.isfinite().all()
    assert (rough - exact).abs().max() > 0.1
    # With hardly any future both are the same.
    myopic = replace(features, gamma=torch.full_like(features.gamma, 0.01))
    torch.testing.assert_close(
        plan_roughly(posterior, myopic, P),
        plan_dense(posterior, myopic, P),
        rtol=1e-4,
        atol=1e-4,
    )
