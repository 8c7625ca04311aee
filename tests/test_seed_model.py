"""The seed's model: symmetries, tied weights, training, and both ways to use it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pretraining.benchmark.baselines.online import SeedLearner
from pretraining.benchmark.baselines.seed_model import SeedModel, load, policies
from pretraining.benchmark.baselines.seed_model.training import (
    CONFIG,
    cross_entropy,
    train,
)
from pretraining.benchmark.environments import environment
from pretraining.benchmark.parts.offline import simulate_log
from pretraining.benchmark.parts.online.simulator import Simulator
from pretraining.recipe.simulate import Log
from pretraining.recipe.train import Groups
from tabrl._features import StatisticsBatch, build_features
from tabrl._network import NetworkConfig
from tabrl._statistics import Statistics

TINY = replace(
    CONFIG,
    n_steps=60,
    warmup_steps=5,
    learning_rate=5e-3,
    pairs_per_group=300,
    max_states=6,
    max_actions=4,
    network=NetworkConfig(width=16, n_layers=4),
)


def random_model(seed: int = 0, **sizes: int) -> SeedModel:
    torch.manual_seed(seed)
    config = NetworkConfig(**{"width": 16, "n_layers": 4, **sizes})
    return SeedModel(config).double().requires_grad_(False)


def draw_codes(n_states: int = 6, n_actions: int = 3) -> list[np.ndarray]:
    """Draw transitions; the last state is entered and never left."""
    rng = np.random.default_rng(0)
    n = 60
    return [
        rng.integers(n_states - 1, size=n),
        rng.integers(n_actions, size=n),
        rng.normal(size=n),
        rng.integers(n_states, size=n),
        rng.random(n) < 0.2,
    ]


def policy(model: SeedModel, codes, n_states: int = 6, n_actions: int = 3):
    statistics = Statistics.from_codes(*codes, n_states, n_actions)
    batch = StatisticsBatch.from_statistics(statistics, 0.9)
    return model(build_features(batch))[0].exp().numpy()


def test_relabelling_states_and_actions_permutes_the_policy():
    model, codes = random_model(), draw_codes()
    states, actions = np.array([3, 5, 0, 1, 4, 2]), np.array([2, 0, 1])
    state, action, reward, following, terminated = codes
    relabelled = [states[state], actions[action], reward, states[following], terminated]
    expected, found = policy(model, codes), policy(model, relabelled)
    assert np.ptp(expected[:-1], axis=1).min() > 1e-3
    np.testing.assert_allclose(found[states][:, actions], expected, atol=1e-12)


def test_actions_without_data_are_alike():
    pi = policy(random_model(), draw_codes())
    np.testing.assert_allclose(pi[-1], 1 / 3, atol=1e-12)


def test_what_follows_matters_as_far_as_there_are_layers():
    # A chain 0 -> 1 -> 2 -> 3, and a second action that stays.
    state, action = np.repeat(np.arange(4), 2), np.tile([0, 1], 4)
    following = np.where(action == 0, np.minimum(state + 1, 3), state)
    ends = np.zeros(8, bool)

    def first_state(n_layers: int, reward_at_end: float) -> np.ndarray:
        # The reward in 2 keeps scale and mean of the rewards the same.
        reward = np.where(state == 3, reward_at_end, 0.0)
        reward = np.where(state == 2, 1 - reward_at_end, reward)
        codes = [state, action, reward, following, ends]
        return policy(random_model(n_layers=n_layers), codes, 4, 2)[0]

    for n_layers, reaches in ((2, False), (4, True)):
        near, far = first_state(n_layers, 0.0), first_state(n_layers, 1.0)
        assert (np.abs(near - far).max() > 1e-9) == reaches


def test_depth_adds_no_parameters():
    shallow, deep = random_model(n_layers=1), random_model(n_layers=20)
    names = [{k: v.shape for k, v in m.state_dict().items()} for m in (shallow, deep)]
    assert names[0] == names[1]
    deep.load_state_dict(shallow.state_dict())
    codes = draw_codes()
    assert np.abs(policy(shallow, codes) - policy(deep, codes)).max() > 1e-3


def test_a_batch_equals_its_single_data_sets():
    group = Groups(TINY, 1)[0]
    model = random_model().float()
    n = len(group.only_active)
    assert n > 1

    def only(i: int):
        log = group.log
        return replace(
            group,
            batch=group.batch.select(torch.tensor([i])),
            log=Log(log.counts[[i]], log.reward_sum[[i]], log.reward_sq_sum[[i]]),
            only_active=group.only_active[[i]],
            reward_range=group.reward_range[[i]],
        )

    known = (group.log.counts.sum((2, 3)) + group.log.counts.sum((1, 2))) > 0
    known |= ~group.only_active[:, None]
    weight = (known & ~group.batch.terminal.numpy()).sum(1)
    single = [cross_entropy(model, only(i)).item() for i in range(n)]
    expected = np.average(single, weights=weight)
    assert cross_entropy(model, group).item() == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[SeedModel, object]:
    folder = tmp_path_factory.mktemp("seed_model")
    return train(TINY, folder), folder


def held_out(model: SeedModel) -> float:
    groups = Groups(replace(TINY, seed=1), 8)
    with torch.no_grad():
        return float(np.mean([cross_entropy(model, groups[i]) for i in range(8)]))


def test_training_lowers_the_cross_entropy_on_other_processes(trained):
    model, _ = trained
    torch.manual_seed(TINY.seed)  # the weights that training began with
    assert held_out(model) < 0.8 * held_out(SeedModel(TINY.network))


def test_a_saved_model_gives_the_same_policies(trained):
    model, folder = trained
    env = environment("gridworld-3x3", 0.99)
    log = simulate_log(env, "uniform", 64, 0)
    found = list(policies(log, env, load(folder)))
    expected = list(policies(log, env, model.double()))
    assert [name for name, *_ in found] == ["seed model, greedy", "seed model, sampled"]
    for (*_, pi), (*_, other) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(pi, other)
        np.testing.assert_allclose(pi.sum(1), 1)


def test_a_model_of_other_features_is_refused(trained, tmp_path):
    _, folder = trained
    weights = load_file(folder / "seed_model.safetensors")
    weights["embed_pair.weight"] = weights["embed_pair.weight"][:, 1:].contiguous()
    save_file(weights, tmp_path / "seed_model.safetensors")
    shutil.copy(folder / "seed_model.json", tmp_path)
    with pytest.raises(ValueError, match="Train anew"):
        load(tmp_path)


def test_the_same_seed_gives_the_same_weights(tmp_path):
    config = replace(TINY, n_steps=3)
    first, again, other = (
        train(replace(config, seed=seed), tmp_path / str(i)).state_dict()
        for i, seed in enumerate((0, 0, 1))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_states_outside_the_log_are_uniform():
    env = environment("DeepSea-6", 0.99)
    log = simulate_log(env, "epsilon 0.05", 16, 0)
    unseen = np.setdiff1d(np.arange(env.n_states), log["state"])
    assert len(unseen)
    for _, _, pi in policies(log, env, random_model()):
        np.testing.assert_allclose(pi[unseen], 1 / 2, atol=1e-12)
        assert np.abs(pi - 1 / 2).max() > 1e-3


def lake_learner(seed: int) -> SeedLearner:
    env = environment("slippery-lake", 0.99)
    rng = np.random.default_rng(seed)
    args = (env.n_states, env.n_actions, env.gamma, (-1.0, 1.0), rng)
    return SeedLearner(*args, seed_model=random_model())


def play(seed: int, n_episodes: int = 5) -> SeedLearner:
    env = environment("slippery-lake", 0.99)
    learner = lake_learner(seed)
    simulator = Simulator(env, 0)
    for _ in range(n_episodes):
        learner.begin()
        simulator.episode(learner)
    return learner


def test_the_learner_reads_what_the_transitions_say():
    env = environment("slippery-lake", 0.99)
    learner = lake_learner(0)
    log = simulate_log(env, "uniform", 200, 0)
    names = ("state", "action", "reward", "next_state", "terminated", "truncated")
    for row in zip(*(log[name].tolist() for name in names), strict=True):
        learner.observe(*row)
    learner.begin()
    statistics = Statistics.from_codes(
        *(log[name] for name in names[:-1]), env.n_states, env.n_actions
    )
    batch = StatisticsBatch.from_statistics(
        statistics, env.gamma, (-1.0, 1.0), complete=True
    )
    expected = random_model()(build_features(batch))[0].exp().numpy()
    np.testing.assert_allclose(learner.policy(), expected, atol=1e-12)
    assert learner.exploit().argmax(1).tolist() == expected.argmax(1).tolist()


def test_the_learner_draws_from_its_policy_and_repeats_with_its_seed():
    first, again, other = play(0), play(0), play(1)
    np.testing.assert_array_equal(first.n, again.n)
    assert (first.n != other.n).any()
    draws = np.bincount([first.act(0) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(draws, first.policy()[0], atol=0.03)


def test_the_learner_changes_its_policy_within_an_episode():
    learner = play(0, n_episodes=1)
    before = learner.policy().copy()
    state = int(np.flatnonzero(learner.n.sum(1) == 0)[0])
    learner.observe(state, 0, 1.0, state, False, False)
    assert np.abs(learner.policy()[state] - before[state]).max() > 1e-6
