"""A page that shows a policy to whoever has to decide on it: one file, no request.

The answer comes first: what the policy is worth beside today's. Then the table of what
it does in each state, and how many rows of the log that rests on. Labels reach the page
escaped or as text nodes, and the page's own policy of content refuses every script but
the one that it came with.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tabrl._html import fit_warnings, label_text, number_text
from tabrl._labels import python_values

# An action tried less often than this in its state is marked as resting on thin data:
# the smallest threshold of SPIBB's authors (Laroche et al., 2019, arXiv 1712.06924).
THIN = 5
# Rows of the table: more would make a page of 6 MB. Those with the most data stay.
_MOST_STATES = 50_000
# Bars of actions: what fits a screen.
_MOST_ACTIONS = 15
# Rows of the coverage table: the worst are enough on a page.
_MOST_COVERED = 10
# With fewer episodes that count their returns are no check of a model, and differences
# below the second are none to act on. Of 81 logs of the development environments (1,024
# and 4,096 rows) none is then a false alarm, three are without. They were chosen on
# these logs.
_FEW_EPISODES, _ALIKE = 5, 0.01
# Nor are they where less than half of what the policy does is in the log. On 210 logs
# of the foreign environments, which had no say in the two numbers above, 4 of 22 doubts
# are false alarms, with intervals of 80 %; without this rule 11 of 36, with 0.3 or 0.7
# in its place 6 of 26 and 3 of 19.
_MOST_OF_IT = 0.5
# How far to trust the intervals: see the notes of `policy_value`.
_TRUST = (
    "How far to trust an interval: in tests on 21 processes whose true values are "
    "known, 77 of 100 intervals held the true value, where 80 should; in one process "
    "none did, in two others about half. In 15 other processes 43 of 100 did: none in "
    "a hospital's with 25 actions and in a taxi's with fines."
)
# Edges of the numbers of rows behind a decision.
_EDGES = (0, 1, THIN, 20, 100, 1000)

_COLUMNS = (
    ("state", "state", "State", "as in the log"),
    ("today", "action", "Today", "the action taken most often in the log"),
    ("action", "action", "Policy", "the action to take"),
    ("probability", "share", "Probability", "of that action in the policy"),
    ("value", "value", "Value", "expected discounted rewards from here on"),
    ("low", "value", "Low", "tenth percentile of the value"),
    ("high", "value", "High", "ninetieth percentile of the value"),
    ("visits", "count", "Rows", "of this state in the log"),
    ("tried", "count", "Rows of action", "of the policy's action in this state"),
    ("share", "share", "Share of today's", "among the rows of this state"),
)

# Columns of the coverage report that the page shows, with their headings.
_COVERAGE = {
    "state": "State",
    "action": "Policy",
    "action_visits": "Rows of action",
    "behaviour_action": "Today",
    "visits": "Rows",
    "visit_share": "Share of the policy's visits",
    "information_value": "Worth of knowing",
}


@dataclass(frozen=True)
class Decisions:
    """What a policy does in each state, and what the log did.

    Attributes
    ----------
    states : array of shape (n,)
        Labels, the most visited first.
    action, today : int64 array of shape (n,)
        Indices into the policy's actions: of what it takes, and of what the log took
        most often; -1 where the log has no row.
    probability, value, low, high : array of shape (n,)
        Of that action: in the policy, and in units of the rewards with the quantiles
        0.1 and 0.9.
    visits, tried, share : array of shape (n,)
        Rows of the state, rows with the policy's action, and the share of the state's
        rows that took today's action.
    taken, to_take : array of shape (n_actions,)
        Rows of each action in the whole log, and how many the policy would have taken
        on average in the same states.
    """

    states: NDArray
    action: NDArray[np.int64]
    today: NDArray[np.int64]
    probability: NDArray[np.float64]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    visits: NDArray[np.int64]
    tried: NDArray[np.int64]
    share: NDArray[np.float64]
    taken: NDArray[np.float64]
    to_take: NDArray[np.float64]

    @property
    def changed(self) -> NDArray[np.bool_]:
        """Where the policy's action is another than today's."""
        return (self.today >= 0) & (self.today != self.action)


def decisions(policy: Any) -> Decisions:
    """Return what a fitted policy does in each state where there is something to do.

    Parameters
    ----------
    policy : OfflinePolicyEstimator
        Fitted.

    Returns
    -------
    Decisions
    """
    statistics = policy.statistics_
    n_actions = len(policy.actions_)
    n = np.zeros((len(policy.states_), n_actions))
    n[statistics.pair_state, statistics.pair_action] = statistics.n
    active = np.flatnonzero(statistics.active_states)
    order = active[np.argsort(-n[active].sum(axis=1), kind="stable")]
    states, n = policy.states_[order], n[order]
    code = {label: i for i, label in enumerate(python_values(policy.actions_))}
    action = np.array([code[a] for a in python_values(policy.predict(states))], int)
    rows = np.arange(len(states))
    visits = n.sum(axis=1)
    return Decisions(
        states=states,
        action=action,
        today=np.where(visits > 0, n.argmax(axis=1), -1),
        probability=policy.predict_proba(states)[rows, action],
        value=policy.action_values(states)[rows, action],
        low=policy.action_values(states, quantile=0.1)[rows, action],
        high=policy.action_values(states, quantile=0.9)[rows, action],
        visits=visits.astype(np.int64),
        tried=n[rows, action].astype(np.int64),
        share=np.divide(n.max(axis=1), visits, where=visits > 0, out=0 * visits),
        taken=n.sum(axis=0),
        to_take=visits @ policy.predict_proba(states),
    )


def report_page(policy: Any, title: str | None = None) -> str:
    """Return the page.

    Parameters
    ----------
    policy : OfflinePolicyEstimator
        Fitted.
    title : str, optional
        Its heading.

    Returns
    -------
    str
        HTML that refers to nothing outside of itself.
    """
    d = decisions(policy)
    folder = resources.files("tabrl") / "page"
    page, style, script = (
        (folder / f"page.{ending}").read_text("utf-8")
        for ending in ("html", "css", "js")
    )
    shown = slice(_MOST_STATES)
    return Template(page).substitute(
        title=html.escape(title or "What the log says to do"),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        thin=THIN,
        data=_data(policy, d, shown),
        **_answer(policy, d),
        warnings=_warnings(policy, d),
        coverage=_coverage(policy, d),
        actions=_actions(policy, d),
        columns_note=_columns_note(d),
        footer=_footer(policy),
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _data(policy: Any, d: Decisions, shown: slice) -> str:
    """Return what the table holds, as JSON that ends no script element."""
    rows = {
        "state": [label_text(label) for label in python_values(d.states[shown])],
        "action": d.action[shown].tolist(),
        "today": [None if a < 0 else a for a in d.today[shown].tolist()],
    }
    for name in ("probability", "value", "low", "high", "share"):
        rows[name] = [_rounded(x) for x in getattr(d, name)[shown].tolist()]
    rows["visits"], rows["tried"] = d.visits[shown].tolist(), d.tried[shown].tolist()
    data = {
        "columns": [
            dict(zip(("name", "kind", "heading", "help"), column, strict=True))
            for column in _COLUMNS
        ],
        "actions": [label_text(label) for label in python_values(policy.actions_)],
        "thin": THIN,
        "rows": rows,
    }
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    # All beyond ASCII is escaped already; inside a string so may these be.
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _rounded(value: float) -> float | None:
    """Return what the table shows of a number, None where it is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


# -- the answer ----------------------------------------------------------------


def _answer(policy: Any, d: Decisions) -> dict[str, str]:
    """Return the sentence on top, and what follows it."""
    ours, today = policy.policy_value(), policy.behaviour_value()
    probability = float(policy.probability_of_improvement())
    rows = d.visits.sum()
    changed = int(d.changed.sum())
    share = d.visits[d.changed].sum() / rows
    intervals = [
        ("Today, as in the log", "today", today),
        ("This policy", "policy", ours),
    ]
    facts = (
        f"The policy takes another action than today's most frequent one in "
        f"<b>{changed:,} of {len(d.states):,} states</b>; {_percent(share)} of the "
        "log's rows are in those."
    )
    episodes, size, share = policy._weighted_returns()
    doubt, check = _checked(ours, episodes, size, share, policy.n_episodes_)
    return {
        "verdict": f"{doubt}{_verdict(probability)} {_beside(ours, today)}",
        "answer": f"{_intervals(intervals)}<p>{facts}</p>"
        f'<p class="note">{check} {_TRUST}</p>',
    }


def _checked(
    ours: Any, episodes: Any, size: float, share: float, n: int
) -> tuple[str, str]:
    """Return a warning where episodes contradict the model's value, and what they say.

    Parameters
    ----------
    ours, episodes : PolicyValue
        What the policy is worth by the model, and by weighted returns.
    size : float
        How many episodes count, NaN if that is not known.
    share : float
        The mean weight of the episodes, about one where they do what the policy does.
    n : int
        How many there are.
    """
    model = "The policy's value comes from a model of the process"
    if math.isnan(size):
        return "", f"{model}. The log does not tell its episodes: nothing checks it."
    if size == 0:
        return "", (
            f"{model}. None of the log's {n:,} episodes did what the policy does: "
            "nothing checks it."
        )
    weighted = "weighted by how far they did what the policy does"
    if size < _FEW_EPISODES:
        return "", (
            f"{model}, and the log cannot check it: {weighted}, its {n:,} episodes "
            f"count as {size:.0f}."
        )
    if share < _MOST_OF_IT:
        return "", (
            f"{model}, and the log cannot check it: much of what the policy does is in "
            f"none of its {n:,} episodes."
        )
    said = (
        f"the log's own episodes, {weighted}, returned {number_text(episodes.value)} "
        f"({number_text(episodes.low)} to {number_text(episodes.high)})"
    )
    apart = episodes.high < ours.low or ours.high < episodes.low
    most = max(abs(ours.value), abs(episodes.value))
    if apart and abs(ours.value - episodes.value) > _ALIKE * most:
        doubt = "<b>Do not rely on this policy's value:</b> a model says "
        return f"{doubt}{number_text(ours.value)}, but {said}. ", ""
    return "", f"{model}. It is checked: {said}."


def _verdict(probability: float) -> str:
    if not math.isfinite(probability):
        return "The log does not say whether this policy is better than today's."
    # It is a share of a few hundred draws, which never says for sure.
    if probability > 0.99:
        share = "over 99\N{NO-BREAK SPACE}%"
    else:
        share = (
            "under 1\N{NO-BREAK SPACE}%"
            if probability < 0.01
            else _percent(probability)
        )
    sure = f"Judged from this log alone, the probability that it is better is {share}."
    if probability >= 0.95:
        return f"<b>Very likely better than today.</b> {sure}"
    if probability >= 0.8:
        return f"<b>Probably better than today.</b> {sure}"
    if probability > 0.2:
        return f"<b>The log cannot tell whether this is better than today.</b> {sure}"
    return f"<b>Probably not better than today.</b> {sure}"


def _beside(ours: Any, today: Any) -> str:
    return (
        f"Expected value {number_text(ours.value)} (80\N{NO-BREAK SPACE}% interval "
        f"{number_text(ours.low)} to {number_text(ours.high)}), today "
        f"{number_text(today.value)} ({number_text(today.low)} to "
        f"{number_text(today.high)})."
    )


def _intervals(rows: list[tuple[str, str, Any]]) -> str:
    """Return a chart of values with their intervals, on one scale."""
    ends = [x for _, _, v in rows for x in (v.low, v.value, v.high) if math.isfinite(x)]
    if not ends:
        return "<p>Values are not known.</p>"
    low, high = min(ends), max(ends)
    pad = 0.08 * (high - low) or 0.5 * abs(low) or 1.0
    low, high = low - pad, high + pad

    def at(x: float) -> str:
        return f"{100 * (x - low) / (high - low):.2f}%"

    lines = []
    for name, kind, v in rows:
        marks = '<line class="rail" x1="0" x2="100%" y1="50%" y2="50%"/>'
        if all(map(math.isfinite, (v.low, v.value, v.high))):
            marks += (
                f'<line class="{kind}" x1="{at(v.low)}" x2="{at(v.high)}" y1="50%" '
                f'y2="50%"/><circle class="{kind}" cx="{at(v.value)}" cy="50%" r="5"/>'
            )
        text = f"{number_text(v.value)} ({number_text(v.low)} to {number_text(v.high)})"
        lines.append((name, marks, text))
    scale = (
        f'<tfoot><tr><td></td><td><span class="ends"><span>{number_text(low)}</span>'
        f"<span>{number_text(high)}</span></span></td><td></td></tr></tfoot>"
    )
    return _bars(lines, "long", foot=scale)


def _warnings(policy: Any, d: Decisions) -> str:
    notes = fit_warnings(policy)
    thin = d.tried < THIN
    if thin.any():
        share = d.visits[thin].sum() / d.visits.sum()
        never = int((d.tried == 0).sum())
        untried = f", in {never:,} of these never" if never else ""
        notes.append(
            f"In {int(thin.sum()):,} of {len(thin):,} states, with {_percent(share)} "
            f"of the rows, the policy's action was tried fewer than {THIN} times"
            f"{untried}. There it rests on what the network infers from other states "
            "and actions."
        )
    if len(d.states) > _MOST_STATES:
        notes.append(
            f"The table holds the {_MOST_STATES:,} states with the most rows, of "
            f"{len(d.states):,}. predict and tabrl fit give all."
        )
    if not notes:
        return ""
    items = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f'<section class="warnings"><h2>Warnings</h2>{items}</section>'


# -- coverage and actions ------------------------------------------------------


def _coverage(policy: Any, d: Decisions) -> str:
    """Return how many rows the decisions rest on, and where they are too few."""
    group = np.digitize(d.tried, _EDGES) - 1
    n_groups = int(group.max()) + 1
    in_states = np.bincount(group, minlength=n_groups)
    in_rows = np.bincount(group, d.visits, n_groups)
    tops = [*(edge - 1 for edge in _EDGES[1:]), None]
    lines = []
    for low, top, n, rows in zip(_EDGES, tops, in_states, in_rows, strict=False):
        name = f"{low:,} or more" if top is None else f"{low:,} to {top:,}"
        name = f"{low:,}" if low == top else name
        share = n / len(d.states)
        of_rows = _percent(rows / d.visits.sum())
        kind = "thin" if top is not None and top < THIN else "policy"
        lines.append(
            (f"{name} rows", _bar(kind, share), f"{n:,} states, {of_rows} of rows")
        )
    chart = _bars(lines, "long")
    about = (
        "<p>Rows of the log in which the policy's action was taken in its state:</p>"
    )
    return f"{about}{chart}{_coverage_table(policy)}"


def _coverage_table(policy: Any) -> str:
    """Return where more data would help most, and how much is thin."""
    report = policy.coverage_report(min_rows=THIN)
    columns = {name: list(report[name])[:_MOST_COVERED] for name in _COVERAGE}
    thin = float(np.sum(np.asarray(report["thin_share"], float)))
    head = "".join(f"<th scope='col'>{title}</th>" for title in _COVERAGE.values())
    body = "".join(
        f"<tr>{''.join(map(_cell, _COVERAGE, row))}</tr>"
        for row in zip(*columns.values(), strict=True)
    )
    return (
        f"<p>Of all visits that the policy itself would make, <b>{_percent(thin)}</b> "
        f"take an action that the log has fewer than {THIN} times in its state.</p>"
        "<h3>Where more data would help most</h3>"
        f'<div class="scroll" tabindex="0"><table class="plain"><thead><tr>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
        '<p class="note">Worth of knowing: what it would be worth to know the process '
        "before deciding in this state, in units of the rewards.</p>"
    )


def _cell(name: str, value: Any) -> str:
    if name in ("state", "action", "behaviour_action"):
        return f"<td>{html.escape('-' if value is None else label_text(value))}</td>"
    text = _percent(value) if name.endswith("share") else number_text(float(value))
    if name.endswith("visits"):
        text = f"{value:,}"
    return f"<td class='number'>{text}</td>"


def _actions(policy: Any, d: Decisions) -> str:
    """Return bars of how often each action is taken, in the log and by the policy."""
    total = d.visits.sum()
    ours, today = d.to_take / total, d.taken / total
    labels = [label_text(label) for label in python_values(policy.actions_)]
    order = np.argsort(-np.maximum(ours, today), kind="stable")[:_MOST_ACTIONS]
    most = max(ours.max(), today.max())
    lines = [
        (
            labels[i],
            _bar("today", today[i] / most, "15%")
            + _bar("policy", ours[i] / most, "55%"),
            f"{_percent(today[i])} → {_percent(ours[i])}",
        )
        for i in order.tolist()
    ]
    left = len(labels) - len(lines)
    rest = f'<p class="note">And {left:,} rarer actions.</p>' if left else ""
    key = (
        '<p class="key"><span class="today">today, as in the log</span>'
        '<span class="policy">this policy in the same states</span></p>'
    )
    return f"{key}{_bars(lines, '', 'two')}{rest}"


def _bar(kind: str, share: float, y: str = "20%") -> str:
    height = "60%" if y == "20%" else "35%"
    return (
        f'<rect class="{kind}" x="0" y="{y}" width="{100 * share:.2f}%" '
        f'height="{height}" rx="2"/>'
    )


def _bars(
    lines: Iterable[tuple[str, str, str]], kind: str, size: str = "", foot: str = ""
) -> str:
    """Return a table of a name, a picture and a number per line."""
    body = "".join(
        f'<tr><th scope="row" class="{kind}">{html.escape(name)}</th>'
        f'<td><svg class="{size}" aria-hidden="true">{marks}</svg></td>'
        f"<td>{html.escape(text)}</td></tr>"
        for name, marks, text in lines
    )
    return f'<table class="bars"><tbody>{body}</tbody>{foot}</table>'


def _columns_note(d: Decisions) -> str:
    return (
        "Value, Low and High: expected discounted rewards from the state on, with the "
        "80 % interval of the estimate. Rows of action: how often the log took the "
        f"policy's action there; red where fewer than {THIN}."
    )


def _footer(policy: Any) -> str:
    return (
        f"{policy.n_transitions_:,} rows, {len(policy.states_):,} states, "
        f"{len(policy.actions_):,} actions, discount factor {policy.gamma:g}. Made by "
        "tabrl. Values are estimates from the log, not promises."
    )


def _percent(share: float) -> str:
    """Return a share as text; no share but 0 and 1 is rounded to them."""
    if 0 < share < 0.001:
        text = "under 0.1"
    elif 0.999 < share < 1:
        text = "over 99.9"
    else:
        text = f"{100 * share:.{1 if 0 < share < 0.1 or 0.99 < share < 1 else 0}f}"
    return f"{text}\N{NO-BREAK SPACE}%"
