"""Judgements of a network on the prior: regret, calibration, exploration, ablations."""
