"""Pictures of a policy, of action values and of regret, as scikit-learn's displays.

Each display holds the numbers, and draws them as often as one likes. `from_estimator`
computes and draws in one call. matplotlib is needed only to draw.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tabrl._html import label_text
from tabrl._labels import as_labels, python_values

# States that are drawn by default: labels of more cannot be read at the usual size.
_POLICY_STATES = 40
_VALUE_STATES = 12


class _Display:
    """What displays share: axes to draw on."""

    ax_: Any
    figure_: Any

    def _axes(self, ax: Any) -> Any:
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                f"{type(self).__name__}.plot needs matplotlib ({error}). Install it: "
                "pip install 'tabrl[plot]'."
            ) from error
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        return ax


class PolicyDisplay(_Display):
    """The probability of each action in each state, as a heat map.

    Parameters
    ----------
    probabilities : array of shape (n_states, n_actions)
        The policy; rows sum to one.
    states : array of shape (n_states,)
        Labels of the rows.
    actions : array of shape (n_actions,)
        Labels of the columns.

    Attributes
    ----------
    ax_ : matplotlib axes
        Where it was drawn.
    figure_ : matplotlib figure
        The figure of the axes.
    image_ : matplotlib image
        The heat map.

    Examples
    --------
    >>> import numpy as np
    >>> from tabrl import PolicyDisplay
    >>> display = PolicyDisplay(np.eye(2), states=["shop", "road"], actions=[0, 1])
    >>> display.plot().ax_.get_xlabel()  # doctest: +SKIP
    'action'
    """

    def __init__(
        self, probabilities: ArrayLike, *, states: ArrayLike, actions: ArrayLike
    ) -> None:
        self.probabilities = np.asarray(probabilities, np.float64)
        self.states = as_labels(states)
        self.actions = as_labels(actions)

    @classmethod
    def from_estimator(
        cls, estimator: Any, states: Any = None, *, ax: Any = None
    ) -> PolicyDisplay:
        """Draw the policy of an estimator.

        Parameters
        ----------
        estimator : OfflinePolicyEstimator or OnlineAgent
            Fitted, or with transitions.
        states : array-like of shape (n_states,), optional
            By default the 40 with the most transitions.
        ax : matplotlib axes, optional
            By default of a new figure.

        Returns
        -------
        PolicyDisplay
            Drawn.

        Raises
        ------
        ValueError
            If a state is unknown.
        ImportError
            If matplotlib is not installed.
        """
        states, labels = _states(estimator, states, _POLICY_STATES)
        probabilities = estimator.predict_proba(states)
        display = cls(probabilities, states=labels, actions=estimator.actions_)
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None, cmap: str = "Blues") -> PolicyDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib axes, optional
            By default of a new figure.
        cmap : str, default="Blues"
            Colour map of matplotlib.

        Returns
        -------
        PolicyDisplay
            The display itself.
        """
        ax = self._axes(ax)
        self.image_ = ax.imshow(
            self.probabilities, cmap=cmap, vmin=0, vmax=1, aspect="auto"
        )
        self.figure_.colorbar(self.image_, ax=ax, label="probability")
        _label(ax.xaxis, self.actions)
        _label(ax.yaxis, self.states)
        ax.set(xlabel="action", ylabel="state")
        return self


class ActionValueDisplay(_Display):
    """The value of each action with its interval, by state.

    Parameters
    ----------
    values, low, high : array of shape (n_states, n_actions)
        Action values and the ends of their intervals, in units of the rewards.
    states : array of shape (n_states,)
        Labels of the rows.
    actions : array of shape (n_actions,)
        Labels of the columns.

    Attributes
    ----------
    ax_ : matplotlib axes
        Where it was drawn.
    figure_ : matplotlib figure
        The figure of the axes.
    containers_ : list of matplotlib containers
        The points and bars, one per action.
    """

    def __init__(
        self,
        values: ArrayLike,
        low: ArrayLike,
        high: ArrayLike,
        *,
        states: ArrayLike,
        actions: ArrayLike,
    ) -> None:
        self.values, self.low, self.high = (
            np.asarray(table, np.float64) for table in (values, low, high)
        )
        self.states = as_labels(states)
        self.actions = as_labels(actions)

    @classmethod
    def from_estimator(
        cls, estimator: Any, states: Any = None, *, ax: Any = None
    ) -> ActionValueDisplay:
        """Draw the action values of an estimator with their 80 % intervals.

        Parameters
        ----------
        estimator : OfflinePolicyEstimator or OnlineAgent
            Fitted, or with transitions.
        states : array-like of shape (n_states,), optional
            By default the 12 with the most transitions.
        ax : matplotlib axes, optional
            By default of a new figure.

        Returns
        -------
        ActionValueDisplay
            Drawn.

        Raises
        ------
        ValueError
            If a state is unknown.
        ImportError
            If matplotlib is not installed.
        """
        states, labels = _states(estimator, states, _VALUE_STATES)
        tables = [estimator.action_values(states, q) for q in (0.5, 0.1, 0.9)]
        display = cls(*tables, states=labels, actions=estimator.actions_)
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None) -> ActionValueDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib axes, optional
            By default of a new figure.

        Returns
        -------
        ActionValueDisplay
            The display itself.
        """
        ax = self._axes(ax)
        n_states, n_actions = self.values.shape
        # Between two states a gap as wide as that of one and a half actions.
        offsets = (np.arange(n_actions) - (n_actions - 1) / 2) / (n_actions + 1.5)
        self.containers_ = []
        for a, label in enumerate(python_values(self.actions)):
            middle = self.values[:, a]
            bars = ax.errorbar(
                np.arange(n_states) + offsets[a],
                middle,
                # Rounding may put an end a hair on the wrong side.
                np.maximum([middle - self.low[:, a], self.high[:, a] - middle], 0),
                fmt="o",
                markersize=4,
                color=f"C{a % 10}",
            )
            bars.set_label(_plain(label))
            self.containers_.append(bars)
        _label(ax.xaxis, self.states)
        ax.set(xlabel="state", ylabel="action value")
        legend = ax.legend(title="action", frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
        return self


class RegretDisplay(_Display):
    """What an agent has missed in comparison with the optimum, summed over episodes.

    Parameters
    ----------
    regret : array of shape (n_episodes,) or (n_runs, n_episodes)
        Regret of each episode: the value of the optimal policy minus what was had.
    name : str, optional
        For the legend.

    Attributes
    ----------
    ax_ : matplotlib axes
        Where it was drawn.
    figure_ : matplotlib figure
        The figure of the axes.
    line_ : matplotlib line
        The mean over the runs.

    Examples
    --------
    >>> from tabrl import RegretDisplay
    >>> RegretDisplay.from_returns([0, 1, 1], optimal_return=1).regret
    array([[1., 0., 0.]])
    """

    def __init__(self, regret: ArrayLike, *, name: str | None = None) -> None:
        regret = np.atleast_2d(np.asarray(regret, np.float64))
        if regret.ndim != 2 or not regret.size or not np.isfinite(regret).all():
            raise ValueError(
                "regret must be finite numbers of shape (n_episodes,) or (n_runs, "
                f"n_episodes). Got shape {regret.shape}, "
                f"{int((~np.isfinite(regret)).sum())} not finite."
            )
        self.regret = regret
        self.name = name

    @classmethod
    def from_returns(
        cls, returns: ArrayLike, *, optimal_return: float, name: str | None = None
    ) -> RegretDisplay:
        """Make a display of the returns of episodes; `plot` draws it.

        Parameters
        ----------
        returns : array of shape (n_episodes,) or (n_runs, n_episodes)
            Sum of the rewards of each episode.
        optimal_return : float
            Expected return of the optimal policy.
        name : str, optional
            For the legend.

        Returns
        -------
        RegretDisplay
            Not drawn yet.
        """
        return cls(optimal_return - np.asarray(returns, np.float64), name=name)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        env: Any,
        *,
        n_episodes: int,
        optimal_return: float,
        name: str | None = None,
        ax: Any = None,
    ) -> RegretDisplay:
        """Let an agent learn in an environment, and draw its regret.

        Parameters
        ----------
        estimator : OnlineAgent
            Learns: it is changed.
        env : gymnasium.Env or gymnasium.vector.VectorEnv
            As in `OnlineAgent.learn`.
        n_episodes : int
            How many.
        optimal_return : float
            Expected undiscounted return of the optimal policy.
        name : str, optional
            For the legend; by default the agent's class.
        ax : matplotlib axes, optional
            By default of a new figure.

        Returns
        -------
        RegretDisplay
            Drawn.
        """
        returns: list[float] = []
        estimator.learn(
            env,
            n_episodes=n_episodes,
            callback=lambda _, episode: returns.append(episode["return"]),
        )
        name = type(estimator).__name__ if name is None else name
        display = cls.from_returns(returns, optimal_return=optimal_return, name=name)
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None, **line_kwargs: Any) -> RegretDisplay:
        """Draw the mean over the runs, and their range where there are several.

        Parameters
        ----------
        ax : matplotlib axes, optional
            By default of a new figure.
        **line_kwargs
            As matplotlib's `plot` takes them.

        Returns
        -------
        RegretDisplay
            The display itself.
        """
        ax = self._axes(ax)
        total = self.regret.cumsum(axis=1)
        episodes = np.arange(1, total.shape[1] + 1)
        style = {"label": self.name} | line_kwargs
        (self.line_,) = ax.plot(episodes, total.mean(axis=0), **style)
        if len(total) > 1:
            ends = total.min(axis=0), total.max(axis=0)
            colour = self.line_.get_color()
            ax.fill_between(episodes, *ends, color=colour, alpha=0.2, linewidth=0)
        ax.set(xlabel="episode", ylabel="cumulative regret")
        ax.xaxis.get_major_locator().set_params(integer=True)
        if style["label"] is not None:
            ax.legend(frameon=False)
        return self


def _states(estimator: Any, states: Any, most: int) -> tuple[Any, NDArray]:
    """Return the states to draw as they were given, and as labels."""
    if states is not None:
        labels = as_labels(states)
        return states, labels
    statistics = estimator.statistics_
    visits = np.bincount(statistics.pair_state, statistics.n, len(estimator.states_))
    chosen = np.argsort(-visits, kind="stable")[:most]
    labels = estimator.states_[np.sort(chosen[visits[chosen] > 0])]
    return labels, labels


def _label(axis: Any, labels: NDArray) -> None:
    """Write labels beside the ticks, some of them where there are many."""
    step = max(1, -(-len(labels) // _POLICY_STATES))
    ticks = range(0, len(labels), step)
    texts = [label_text(label) for label in python_values(labels)[::step]]
    long = axis.axis_name == "x" and sum(map(len, texts)) > 60
    # Dollar signs in a label are no mathematics.
    style = {"rotation": 45, "ha": "right"} if long else {}
    axis.set_ticks(ticks, texts, parse_math=False, **style)


def _plain(label: Any) -> str:
    # matplotlib leaves labels that start with an underscore out of a legend.
    text = label_text(label)
    return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text
