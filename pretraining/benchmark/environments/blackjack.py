"""Blackjack against a dealer with an infinite deck."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pretraining.benchmark.process import Environment, Outcome, from_table

# Sum, card that the dealer shows, whether an ace counts 11, whether it is a natural.
Hand = tuple[int, int, bool, bool]

# Ace to ten; ten, jack, queen and king count 10. The deck is infinite.
_CARDS = {card: 4 / 13 if card == 10 else 1 / 13 for card in range(1, 11)}
_STICK, _HIT = 0, 1


def blackjack_states() -> list[Hand | None]:
    """States of `blackjack` in the order of its arrays; None is the end of the game.

    A natural is an ace and a ten as dealt. gymnasium shows it like any other 21 with a
    usable ace, which it is not: it wins against those of the dealer that are none.
    """
    hands = [(total, False, False) for total in range(4, 22)]
    hands += [(total, True, False) for total in range(12, 22)] + [(21, True, True)]
    states: list[Hand | None] = [
        (total, shown, ace, natural)
        for total, ace, natural in hands
        for shown in _CARDS
    ]
    return states + [None]


def blackjack(gamma: float) -> Environment:
    """Blackjack-v1 of gymnasium, from its rules: 291 states, stick (0) or hit (1).

    The rules are those of Sutton and Barto (2018, example 5.1), gymnasium's default
    (``sab=True, natural=False``): cards are drawn with replacement, the dealer hits
    below 17, a natural wins unless the dealer has one, and going bust loses. A win
    pays 1, a loss -1, a draw 0.

    A natural is a state of its own here. gymnasium's observation does not tell it from
    another 21, and is no Markov state for that reason.
    """
    states = blackjack_states()
    number = {state: i for i, state in enumerate(states)}
    end = number[None]

    def stick(hand: Hand) -> list[Outcome]:
        total, shown, _, natural = hand
        chance = {1.0: 0.0, 0.0: 0.0, -1.0: 0.0}
        for (dealer, dealer_natural), p in _dealer(shown).items():
            reward = float(np.sign(total - dealer)) if dealer <= 21 else 1.0
            if natural and not dealer_natural:
                reward = 1.0
            chance[reward] += p
        return [(p, end, reward, True) for reward, p in chance.items()]

    def hit(hand: Hand) -> list[Outcome]:
        total, shown, ace, _ = hand
        outcomes: list[Outcome] = []
        for card, p in _CARDS.items():
            after, usable = _add(total, ace, card)
            if after > 21:
                outcomes.append((p, end, -1.0, True))
            else:
                successor = number[after, shown, usable, False]
                outcomes.append((p, successor, 0.0, False))
        return outcomes

    over: list[Outcome] = [(1.0, end, 0.0, True)]
    table = [
        [over, over] if hand is None else [stick(hand), hit(hand)] for hand in states
    ]
    start = np.zeros(len(states))
    for shown, p in _CARDS.items():
        for (total, ace, natural), q in _dealt().items():
            start[number[total, shown, ace, natural]] += p * q
    return from_table("Blackjack-v1", table, start, gamma)


def _add(total: int, ace: bool, card: int) -> tuple[int, bool]:
    """Sum of a hand and whether an ace counts 11, after one more card."""
    total, ace = total + card, ace
    if card == 1 and not ace and total + 10 <= 21:
        return total + 10, True
    if ace and total > 21:
        return total - 10, False
    return total, ace


def _dealt() -> dict[tuple[int, bool, bool], float]:
    """Probabilities of sum, usable ace and natural of two cards."""
    chance: dict[tuple[int, bool, bool], float] = {}
    for first, p in _CARDS.items():
        for second, q in _CARDS.items():
            total, ace = _add(*_add(0, False, first), second)
            hand = (total, ace, {first, second} == {1, 10})
            chance[hand] = chance.get(hand, 0.0) + p * q
    return chance


@lru_cache(maxsize=16)
def _dealer(shown: int) -> dict[tuple[int, bool], float]:
    """Probabilities of the dealer's final sum and of a natural, by the card shown."""
    chance: dict[tuple[int, bool], float] = {}

    def play(total: int, ace: bool, n_cards: int, p: float) -> None:
        if total >= 17:
            key = (total, n_cards == 2 and total == 21)
            chance[key] = chance.get(key, 0.0) + p
            return
        for card, q in _CARDS.items():
            play(*_add(total, ace, card), n_cards + 1, p * q)

    play(*_add(0, False, shown), 1, 1.0)
    return chance
