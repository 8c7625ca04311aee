"""The report page and the notebook's view: labels stay text, numbers are right."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn

from tabrl import OfflinePolicyEstimator, OnlineAgent, __main__, _report

SCRIPT = "<script>alert(1)</script>"
CLOSING = "</script><script>alert(2)</script>"
IMAGE = "<img src=x onerror=alert(3)>"


def estimate(value, low, high):
    return SimpleNamespace(value=value, low=low, high=high)


@pytest.fixture
def estimates(monkeypatch):
    """Set what the estimator says of values, whatever it would say itself."""
    said = {
        "policy_value": estimate(1.25, 0.9, 1.5),
        "behaviour_value": estimate(0.8, 0.75, 0.86),
        "probability_of_improvement": 0.973,
        "coverage_report": pd.DataFrame(
            {
                "state": [SCRIPT, "b"],
                "action": ["go", IMAGE],
                "action_visits": [3, 700],
                "behaviour_action": ["go", None],
                "visits": [1200, 0],
                "visit_share": [0.25, 0.75],
                "thin_share": [0.25, 0.0],
                "information_value": [0.5, np.nan],
            }
        ),
    }
    for name, value in said.items():
        monkeypatch.setattr(OfflinePolicyEstimator, name, lambda self, v=value, **_: v)
    return said


def draw_log(n=3000, states=("a", "b", SCRIPT, CLOSING), actions=("go", IMAGE)):
    rng = np.random.default_rng(0)
    s, following = rng.integers(len(states), size=(2, n))
    a = rng.integers(len(actions), size=n)
    return {
        "state": np.array(states, object)[s],
        "action": np.array(actions, object)[a],
        "reward": rng.normal(size=n) + 2.0 * (a == s % 2),
        "next_state": np.array(states, object)[following],
        "terminated": rng.random(n) < 0.1,
    }


@pytest.fixture(scope="module")
def policy():
    return OfflinePolicyEstimator(gamma=0.9, random_state=0).fit(draw_log())


class Page(HTMLParser):
    """Elements, and the text that is shown."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.shown, self.data, self._inside = [], "", "", []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        self._inside.pop()

    def handle_data(self, data):
        tag, attributes = self._inside[-1] if self._inside else ("", {})
        if attributes.get("id") == "data":
            self.data += data
        elif tag not in ("script", "style"):
            self.shown += data


@pytest.fixture
def page(policy, estimates, tmp_path):
    policy.report(tmp_path / "policy.html")
    return (tmp_path / "policy.html").read_text("utf-8")


def test_the_answer_comes_first(page):
    shown = " ".join(Page(page).shown.split())
    assert shown.index("Very likely better than today.") < 60
    assert "the probability that it is better is 97 %" in shown
    assert "25 % take an action that the log has fewer than 5 times" in shown
    assert "25 % take an action that the log has fewer than 5 times" in shown
    assert "1.25 (80 % interval 0.900 to 1.50), today 0.800 (0.750 to 0.860)" in shown


@pytest.mark.parametrize(
    ("probability", "words"),
    [
        (1.0, "is over 99\N{NO-BREAK SPACE}%."),
        (0.96, "Very likely better"),
        (0.85, "Probably better"),
        (0.5, "cannot tell"),
        (0.1, "Probably not better"),
        (0.0, "is under 1\N{NO-BREAK SPACE}%."),
        (np.nan, "does not say"),
    ],
)
def test_the_verdict_follows_the_probability(probability, words):
    assert words in _report._verdict(probability)


@pytest.mark.parametrize(
    ("episodes", "size", "share", "doubted", "words"),
    [
        (estimate(0.85, 0.82, 0.89), 8.2, 0.9, True, "returned 0.850 (0.820 to 0.890)"),
        (estimate(1.75, 1.6, 1.9), 40, 0.9, True, "a model says 1.25, but"),
        (estimate(1.0, 0.85, 1.15), 40, 1.1, False, "It is checked"),
        (estimate(0.85, 0.82, 0.89), 40, 0.4, False, "in none of its 70 episodes"),
        (estimate(0.85, 0.82, 0.89), 4.2, 0.9, False, "its 70 episodes count as 4."),
        (estimate(np.nan, -np.inf, np.inf), 0, 0.0, False, "None of the log's 70 epis"),
        (estimate(np.nan, -np.inf, np.inf), np.nan, np.nan, False, "does not tell its"),
    ],
)
def test_a_value_that_episodes_contradict_is_doubted(
    episodes, size, share, doubted, words
):
    ours = estimate(1.25, 0.9, 1.5)
    doubt, check = _report._checked(ours, episodes, size, share, 70)
    assert doubt.startswith("<b>Do not rely on this policy's value") == doubted
    assert words in doubt + check


def test_a_difference_that_is_none_to_act_on_is_no_doubt():
    exact = estimate(0.941, 0.941, 0.941)
    doubt, check = _report._checked(
        estimate(0.940, 0.939, 0.9405), exact, 365, 1.0, 683
    )
    assert not doubt
    assert "It is checked" in check


def test_the_page_doubts_a_model_whose_states_hide_what_matters(tmp_path):
    """The fault is planted in the log: nothing in the model can notice it.

    Whoever stays at the door gets 1 for going on in the room, or 0 for staying, and the
    other way round for whoever goes. The state "room" does not tell which.
    """
    first, second = np.random.default_rng(0).choice(["go", "stay"], (2, 400))
    paid = np.column_stack([first == "stay", first != second]) + 0.2 * (
        np.column_stack([first, second]) == "stay"
    )
    log = pd.DataFrame(
        {
            "episode": np.repeat(np.arange(400), 2),
            "state": ["door", "room"] * 400,
            "action": np.column_stack([first, second]).ravel(),
            "reward": paid.ravel(),
            "next_state": ["room", "end"] * 400,
            "terminated": [False, True] * 400,
        }
    )
    policy = OfflinePolicyEstimator(0.9, random_state=0).fit(log)
    assert policy.predict(["door", "room"]).tolist() == ["stay", "stay"]
    assert policy.policy_value().low > 1.2 + 0.9 * 0.5  # in truth 1.2 + 0.9 * 0.2
    policy.report(tmp_path / "policy.html")
    shown = " ".join(Page((tmp_path / "policy.html").read_text("utf-8")).shown.split())
    assert "Do not rely on this policy's value: a model says" in shown
    policy.partial_fit(log)
    policy.report(tmp_path / "policy.html")
    shown = " ".join(Page((tmp_path / "policy.html").read_text("utf-8")).shown.split())
    assert "The log does not tell its episodes: nothing checks it." in shown


def test_nothing_is_loaded_from_elsewhere(page):
    assert not re.search(r"https?:|url\(|@import|//[a-z]", page)
    sources = [
        (tag, value)
        for tag, attributes in Page(page).elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data")
    ]
    assert sources == [("link", "data:,")]


def test_labels_add_no_element(page):
    tags = [tag for tag, _ in Page(page).elements]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert SCRIPT in Page(page).shown  # of the coverage report, as text


def test_no_number_is_shown_as_nan(page):
    assert not re.search(r"\b(nan|NaN|None|inf|Infinity)\b", Page(page).shown)
    assert "NaN" not in Page(page).data


def test_the_table_is_what_the_policy_says(page, policy):
    data = json.loads(Page(page).data)
    rows, actions = pd.DataFrame(data["rows"]), data["actions"]
    assert actions == policy.actions_.tolist()
    assert set(rows["state"]) == set(policy.states_)
    assert rows["visits"].is_monotonic_decreasing
    assert rows["visits"].sum() == policy.n_transitions_
    log = pd.DataFrame(draw_log())
    for row in rows.itertuples():
        action = actions[row.action]
        assert action == policy.predict([row.state])[0]
        of_state = log[log["state"] == row.state]["action"]
        assert actions[row.today] == of_state.mode()[0]
        assert row.tried == (of_state == action).sum()
        assert row.share == pytest.approx(of_state.value_counts(True).max(), rel=1e-3)
        for name, quantile in (("low", 0.1), ("value", None), ("high", 0.9)):
            values = policy.action_values([row.state], quantile)
            assert getattr(row, name) == pytest.approx(values[0, row.action], rel=1e-3)
        probability = policy.predict_proba([row.state])[0, row.action]
        assert row.probability == pytest.approx(probability, rel=1e-3)


def test_states_without_rows_have_no_action_of_today(estimates):
    log = {
        "state": [0] * 20,
        "action": [0, 1] * 10,
        "reward": [0.0] * 20,
        "next_state": [1] * 20,
        "terminated": [False] * 20,
    }
    with pytest.warns(UserWarning, match="never occur as 'state'"):
        policy = OfflinePolicyEstimator(random_state=0).fit(log)
    page = Page(_report.report_page(policy))
    rows = json.loads(page.data)["rows"]
    assert rows["today"] == [0, None]
    assert rows["visits"] == [20, 0]
    assert "never occur as 'state'" in page.shown
    assert "in 1 of these never" in page.shown


def test_states_that_only_end_are_left_out(estimates):
    log = draw_log(states=range(4), actions=range(2))
    log["next_state"] = np.where(log["terminated"], 9, log["next_state"])
    policy = OfflinePolicyEstimator(random_state=0).fit(log)
    assert 9 in policy.states_
    assert (
        "9" not in json.loads(Page(_report.report_page(policy)).data)["rows"]["state"]
    )


def test_an_unfitted_policy_writes_nothing(tmp_path):
    with pytest.raises(sklearn.exceptions.NotFittedError):
        OfflinePolicyEstimator().report(tmp_path / "policy.html")
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, estimates, capsys):
    pytest.importorskip("pyarrow")
    pytest.importorskip("tqdm")
    log = pd.DataFrame(draw_log(states=range(4), actions=range(2)))
    log.to_csv(tmp_path / "log.csv", index=False)
    out = tmp_path / "policy.html"
    command = ["report", str(tmp_path / "log.csv"), "--gamma", "0.9", "-o", str(out)]
    assert __main__.main(command) == 0
    policy = OfflinePolicyEstimator(gamma=0.9, random_state=0).fit(log)
    policy.report(tmp_path / "other.html")
    assert out.read_bytes() == (tmp_path / "other.html").read_bytes()
    assert capsys.readouterr() == ("", "")


# Notebooks


def test_a_notebook_shows_what_the_policy_knows(policy):
    view = policy._repr_html_()
    page = Page(view)
    assert "3,000" in page.shown
    assert SCRIPT in page.shown
    assert IMAGE in page.shown
    diagram = sklearn.utils.estimator_html_repr(sklearn.base.clone(policy))
    for tag in ("script", "img"):
        found, own = (
            sum(element == tag for element, _ in Page(source).elements)
            for source in (view, diagram)
        )
        assert found == own
    assert policy._repr_mimebundle_()["text/html"].endswith(view[-300:])


def test_a_notebook_shows_text_where_scikit_learn_does(policy):
    with sklearn.config_context(display="text"):
        assert not hasattr(policy, "_repr_html_")
        assert set(policy._repr_mimebundle_()) == {"text/plain"}


def test_a_notebook_shows_an_unfitted_policy_and_warnings():
    assert "rows" not in Page(OfflinePolicyEstimator(gamma=0.5)._repr_html_()).shown
    log = {"state": [0] * 20, "action": [0] * 20, "reward": [0.0] * 20}
    log |= {"next_state": [1] * 20, "terminated": [False] * 20}
    with pytest.warns(UserWarning, match="never occur"):
        policy = OfflinePolicyEstimator().fit(log)
    assert "Warning: 20 of 20 transitions" in Page(policy._repr_html_()).shown


def test_a_notebook_shows_an_agent():
    agent = OnlineAgent(n_actions=2, gamma=0.5, reward_range=(0, 1))
    assert "0.5" in Page(agent._repr_html_()).shown
    agent.observe(SCRIPT, 1, 0.5, "b", False)
    page = Page(agent._repr_html_())
    assert SCRIPT in page.shown
    assert "script" not in [tag for tag, _ in page.elements]


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless chromium, where it is installed; nothing is downloaded."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update"),
        *("disable-sync", f"user-data-dir={profile}", "window-size=1200,900"),
    ):
        options.add_argument(f"--{flag}")
    service = webdriver.ChromeService(driver)
    with webdriver.Chrome(options=options, service=service) as browser:
        yield browser


@pytest.fixture
def opened(browser, page, tmp_path):
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get((tmp_path / "policy.html").as_uri())
    return browser


def cells(browser, column):
    return browser.execute_script(
        "return [...document.querySelectorAll('#policy tbody tr')]"
        ".map(row => row.cells[arguments[0]].textContent)",
        column,
    )


def find(browser, selector):
    return browser.find_element("css selector", selector)


@pytest.mark.browser
def test_labels_are_text_in_a_browser(opened):
    assert set(cells(opened, 0)) == {"a", "b", SCRIPT, CLOSING}
    assert set(cells(opened, 2)) <= {"go", IMAGE}
    assert opened.execute_script("return document.images.length") == 0
    assert opened.get_log("browser") == []  # neither errors nor refused scripts


@pytest.mark.browser
def test_an_injected_script_would_not_run(opened):
    opened.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.bad = 1';"
        "document.body.append(s)"
    )
    assert opened.execute_script("return window.bad") is None
    assert "Content Security Policy" in opened.get_log("browser")[0]["message"]


@pytest.mark.browser
def test_sorting_and_filtering(opened):
    visits = [int(text.replace(",", "")) for text in cells(opened, 7)]
    assert visits == sorted(visits, reverse=True)
    head = find(opened, "th[data-name=state] button")
    head.click()
    assert cells(opened, 0)[-2:] == ["a", "b"]  # signs are sorted before letters
    head.click()
    assert cells(opened, 0)[:2] == ["b", "a"]
    heads = "return [...document.querySelectorAll('th[aria-sort]')].map(t => [t.dataset"
    assert opened.execute_script(f"{heads}.name, t.ariaSort])") == [
        ["state", "descending"]
    ]
    find(opened, "#find").send_keys("ALERT(1)")
    assert cells(opened, 0) == [SCRIPT]
    assert find(opened, "#count").text == "1 of 4 states"


@pytest.mark.browser
@pytest.mark.parametrize("show", ["changed", "thin"])
def test_showing_some_of_the_states(opened, show):
    opened.execute_script(
        "const s = document.getElementById('show'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('change'))",
        show,
    )
    table = json.loads(find(opened, "#data").get_attribute("textContent"))["rows"]
    pairs = zip(table["action"], table["today"], strict=True)
    wanted = sum(a != b for a, b in pairs) if show == "changed" else 0
    assert len(cells(opened, 0)) == wanted


@pytest.mark.browser
def test_colours_follow_the_system(opened):
    def ground(scheme):
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        return opened.execute_script(
            "const style = getComputedStyle(document.body);"
            "return [style.backgroundColor, style.color]"
        )

    def brightness(colour):
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    light, dark = ground("light"), ground("dark")
    assert brightness(light[0]) > 200 > 100 > brightness(light[1])
    assert brightness(dark[0]) < 60 < 200 < brightness(dark[1])


@pytest.mark.browser
def test_a_phone_scrolls_the_table_and_not_the_page(opened):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    widths = opened.execute_script(
        "const box = document.querySelector('.scroll');"
        "const page = document.documentElement;"
        "return [page.scrollWidth, box.scrollWidth, box.clientWidth]"
    )
    assert widths[0] == 390
    assert widths[1] > widths[2]


@pytest.mark.browser
def test_ten_thousand_states_open_at_once(browser, estimates, tmp_path):
    rng = np.random.default_rng(0)
    n, n_states = 60_000, 10_000
    state, following = rng.integers(n_states, size=(2, n))
    state[:n_states] = np.arange(n_states)
    log = {"state": state, "action": rng.integers(3, size=n), "reward": rng.random(n)}
    log |= {"next_state": following, "terminated": np.zeros(n, bool)}
    path = tmp_path / "large.html"
    OfflinePolicyEstimator(gamma=0.5, random_state=0).fit(log).report(path)
    assert path.stat().st_size < 3e6
    browser.get(path.as_uri())
    opened = browser.execute_script(
        "return performance.getEntriesByType('navigation')[0].loadEventEnd"
    )
    assert 0 < opened < 1000  # milliseconds
    assert len(cells(browser, 0)) == 100
    find(browser, "#after").click()
    assert find(browser, "#where").text == "Page 2 of 100"
    find(browser, "#find").send_keys("9876")
    assert cells(browser, 0) == ["9876"]
