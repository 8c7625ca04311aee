"""When an agent replaces the plan that it follows."""

from __future__ import annotations

from typing import Any

# Within an episode a plan stays for so many steps at least: the episodes of the usual
# tasks are no longer, and what they explore is planned as a whole.
_PATIENCE = 200
# A pair tried so often has shown whether its bonus was due, and a wall would hold the
# agent for the rest of the episode. Once is not enough, for bad luck in a first try may
# conceal all that lies behind.
ENOUGH_VISITS = 2
# So many pairs of state and action in all are worth one step: a plan takes longer the
# more there are, so that the next one within an episode waits for as many steps.
_PAIRS_PER_STEP = 10_000


class Replanning:
    """Tells when to plan: at each episode, and within one where the plan has aged.

    Within an episode it is time to plan

    - before a pair is repeated that was tried for the second time since the plan was
      made, at the earliest after one step for each 10,000 pairs;
    - after 200 steps, once the number of visits of some pair has doubled.

    Attributes
    ----------
    due : bool
        Whether an episode begins, or nothing was planned so far.
    doubled : bool
        Whether the number of visits of some pair became a power of two.
    age : int
        Steps since the last plan.
    tried : set of (int, int)
        Pairs that were tried for the second time since the last plan.
    """

    def __init__(self) -> None:
        self.due, self.doubled, self.age = True, False, 0
        self.tried: set[tuple[int, int]] = set()

    def restart(self) -> None:
        """Begin with a new plan."""
        self.due, self.doubled, self.age = False, False, 0
        self.tried.clear()

    def count(self, state: int, action: int, n: int, age: int, ended: bool) -> None:
        """Take a step, the n-th visit of a pair; perhaps it ended the episode.

        ``age`` is what it is now plus one: to count a step again changes nothing.
        """
        if n & (n - 1) == 0:  # in a run without such an n no number has doubled
            self.doubled = True
            if n == ENOUGH_VISITS:
                self.tried.add((state, action))
        self.age = age
        if ended:
            self.due = True

    def is_due(self) -> bool:
        """Tell whether to plan before the next action is chosen."""
        return self.due or (self.doubled and self.age >= _PATIENCE)

    def is_due_before(self, pair: tuple[int, int], n_pairs: int) -> bool:
        """Tell whether to plan before this pair is repeated, of `n_pairs` in all."""
        return pair in self.tried and self.age * _PAIRS_PER_STEP >= n_pairs

    def pack(self) -> dict[str, Any]:
        """Return it as JSON holds it; the keys are those of saved agents."""
        return {
            "due": self.due,
            "doubled": self.doubled,
            "age": self.age,
            "news": sorted(self.tried),
        }

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> Replanning:
        """Return what `pack` packed."""
        for name in ("due", "doubled"):
            if type(packed[name]) is not bool:
                raise TypeError(f"plan: {name}")
        numbers = [packed["age"], *(code for pair in packed["news"] for code in pair)]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise TypeError("plan: age or news")
        replanning = cls()
        replanning.due, replanning.doubled = packed["due"], packed["doubled"]
        replanning.age = packed["age"]
        replanning.tried = {(state, action) for state, action in packed["news"]}
        return replanning
