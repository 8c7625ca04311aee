"""Judgements of a network on the prior; which module answers which question.

How good are policies and probabilities on logs, in every family and size?
    `validate`, from `sets` (the processes and logs), `controls` (the methods to beat),
    `scores` (of each process) and `bootstrap` (means with intervals). It writes the
    report, of which `report` makes text and a figure.
How far from perfect inference?
    `conjugate`, by the reference in `bayes`, where the prior is a conjugate one.
How well does it explore?
    `exploration`, with the released agent, and `regret`, which scores an episode.
Does another device give the same answers?
    `devices`.
How optimistic should the agent be?
    `optimism`, before the export: it chooses on the prior, with `regret` too.
Do the intervals of `policy_value` hold, on the development environments?
    `policy_value`.
What is each part of the recipe worth?
    `ablations`.
What do the processes of a family look like?
    `gallery`.

``python -m pretraining.validation.NAME --help`` lists the options of `validate`,
`optimism`, `policy_value`, `ablations` and `gallery`.
"""
