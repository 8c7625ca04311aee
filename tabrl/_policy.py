"""The policy that an agent follows from one plan to the next."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from tabrl._planning import greedy


class Policy:
    """Action probabilities of a plan, made for a state when they are first needed.

    Parameters
    ----------
    scores : array of shape (S, A)
        Action values to be greedy in, or log-probabilities. Actions look equally good
        in states that are added later.
    is_greedy : bool
        Which of the two they are; greedy policies take ties in equal shares.
    """

    def __init__(self, scores: NDArray[np.float64], is_greedy: bool) -> None:
        self.scores = scores
        self.is_greedy = is_greedy
        self._cumulative: dict[int, list[float]] = {}

    def probabilities(
        self, code: int, mask: NDArray[np.bool_] | None
    ) -> NDArray[np.float64]:
        """Return the probabilities (A,) of the actions, zero outside of the mask."""
        planned = code < len(self.scores)
        scores = self.scores[code] if planned else np.zeros(self.scores.shape[1])
        if mask is not None:  # perhaps another one than when it was planned
            scores = np.where(mask, scores, -np.inf)
            if scores.max() == -np.inf:
                scores = np.where(mask, 0.0, -np.inf)
        if self.is_greedy:
            return greedy(torch.from_numpy(scores)).numpy()
        row = np.exp(scores - scores.max())
        return row / row.sum()

    def draw(
        self, code: int, mask: NDArray[np.bool_] | None, rng: np.random.Generator
    ) -> int:
        """Draw an action. Call `forget` before, if the mask has changed."""
        cumulative = self._cumulative.get(code)
        if cumulative is None:
            cumulative = list(accumulate(self.probabilities(code, mask).tolist()))
            self._cumulative[code] = cumulative
        # Never past the last action that has a probability, whatever rounding does.
        draw = rng.random() * cumulative[-1]
        return bisect_right(cumulative, draw)

    def forget(self, code: int) -> None:
        """Make the probabilities of a state anew: its mask has changed."""
        self._cumulative.pop(code, None)
