"""Online methods: one file with one class a method, registered here in one line.

To add a method, derive a class from `Learner` (from `ValueIteration` for one that
plans on counts), say its `name`, and add it to the calls of `register` below:

    class Greedy(ValueIteration):
        name = "greedy"

        def begin(self):
            self.follow(self.exploit())

    register(Greedy)

``python -m pretraining.benchmark online`` then runs it with the others: `begin` before
each episode, `act` and `observe` at each step, `exploit` after it. `Learner` lists the
class attributes: `constants` to choose from in hindsight, `parts` of the protocol, and
`package` or `needs` for what may be missing. A class registered elsewhere is known to
its own process alone, so run it with one job.
"""

from pretraining.benchmark.baselines.online.boltzmann import Boltzmann
from pretraining.benchmark.baselines.online.continuing import (
    IMEDRL,
    KLUCRL,
    UCRL2B,
    UCRL3,
)
from pretraining.benchmark.baselines.online.learner import Learner
from pretraining.benchmark.baselines.online.psrl import PSRL
from pretraining.benchmark.baselines.online.q_learning import (
    FixedRateQLearning,
    QLearning,
)
from pretraining.benchmark.baselines.online.seed_learner import SeedLearner
from pretraining.benchmark.baselines.online.tabrl_agent import Tabrl
from pretraining.benchmark.baselines.online.ucbvi import UCBVI, BernsteinUCBVI
from pretraining.benchmark.baselines.online.value_iteration import ValueIteration

__all__ = [
    "IMEDRL",
    "KLUCRL",
    "LEARNERS",
    "PSRL",
    "UCBVI",
    "UCRL2B",
    "UCRL3",
    "BernsteinUCBVI",
    "Boltzmann",
    "FixedRateQLearning",
    "Learner",
    "QLearning",
    "SeedLearner",
    "Tabrl",
    "ValueIteration",
    "register",
]

# By name, in the order of the cells.
LEARNERS: dict[str, type[Learner]] = {}


def register(learner: type[Learner]) -> None:
    """Add a method to those that the benchmark can run.

    Parameters
    ----------
    learner : type
        A subclass of `Learner` with a `name` of its own.

    Raises
    ------
    ValueError
        If the name is taken.
    """
    if learner.name in LEARNERS:
        raise ValueError(
            f"Each method must have a name of its own. {learner.name!r} is taken by "
            f"{LEARNERS[learner.name].__name__}."
        )
    LEARNERS[learner.name] = learner


register(Tabrl)
register(UCBVI)
register(PSRL)
register(QLearning)
register(ValueIteration)
register(Boltzmann)
register(SeedLearner)
register(FixedRateQLearning)
register(BernsteinUCBVI)
register(UCRL3)
register(KLUCRL)
register(IMEDRL)
register(UCRL2B)
