"""The page of clusters, from plain data."""

from __future__ import annotations

from typing import Any

import pytest
from bs4 import BeautifulSoup

from qhub_gateway.page import render_logs, render_page, render_rows, render_sharing
from tests.unit.hostile import MARK, TEXTS

NOW = 1_800_000_000.0
NAME = "0123456789abcdef0123456789abcdef"
WHERE: dict[str, Any] = {"base": "/services/qhub/clusters", "hub": "/hub/"}


def cluster(**values: Any) -> dict[str, Any]:
    return {
        "name": "0123456789abcdef0123456789abcdef",
        "user": "alice",
        "profile": "general",
        "environment": "default",
        "backend": "slurm",
        "state": "running",
        "words": "",
        "wanted": 10,
        "workers": {"queued": 3, "starting": 0, "running": 7, "stopping": 0},
        "cores": 15.5,
        "memory_bytes": 30 * 2**30,
        "gpus": 0,
        "started": NOW - 3723,
        "seconds_left": 1800.0,
        "dashboard": "/clusters/0123456789abcdef0123456789abcdef/status",
        "may_stop": True,
        "may_look": True,
        "may_read_logs": True,
        "mine": True,
        "shared": {"users": [], "groups": []},
    } | values


def page(*clusters: dict[str, Any], **values: Any) -> BeautifulSoup:
    settings = {"user": "alice", "base": "/services/qhub/clusters", "hub": "/hub/", "xsrf": "x"}
    return BeautifulSoup(render_page(clusters, now=NOW, **(settings | values)), "html.parser")


def test_a_cluster() -> None:
    """What it is, where, workers, what it takes, how old, how long left; a dashboard; a stop."""
    text = " ".join(page(cluster()).get_text().split())
    for words in (
        "general 01234567",
        "It runs on Slurm.",
        "3 queued, 7 running of 10 wanted",
        "15.5",
        "30 GiB",
        "1 h 2 min",
        "30 min",
    ):
        assert words in text, words
    found = page(cluster())
    assert found.find("a", string=None, href=lambda href: href and "dashboard/status" in href)
    form = found.find("form")
    assert form is not None
    assert form["action"] == "/services/qhub/clusters/0123456789abcdef0123456789abcdef/stop"
    assert form["method"] == "post"
    assert form.find("input", {"name": "_xsrf", "value": "x"})


def test_why_it_waits() -> None:
    """A cluster that waits says why; it has no dashboard and no walltime yet."""
    found = page(cluster(state="queued", words="Priority", dashboard=None, seconds_left=None))
    assert "It waits in the queue" in found.get_text()
    assert found.find(class_="why").get_text() == "Priority"
    assert "Walltime" not in found.get_text()
    assert "Dashboard" not in found.get_text()


def test_why_it_failed() -> None:
    """A cluster that failed says why, below what is there, with its logs and nothing else to do."""
    workers = dict.fromkeys(("queued", "starting", "running", "stopping"), 0)
    gone = {"workers": workers, "dashboard": None, "seconds_left": None, "memory_bytes": 0}
    failed = cluster(name="f" * 32, state="failed", words="its walltime was over", **gone)
    found = page(failed | {"started": NOW}, cluster())
    assert [each["data-state"] for each in found.find_all("section")] == ["running", "failed"]
    section = found.find_all("section")[1]
    assert "It has failed on Slurm." in section.get_text()
    assert section.find(class_="why").get_text() == "Its walltime was over"
    assert [each["href"].rpartition("/")[2] for each in section.find_all("a")] == ["logs"]
    assert not section.find("form")
    assert "Workers" not in section.get_text()
    assert "There is no cluster now" not in found.get_text()
    assert "There is no cluster now" in page(failed).get_text()


def test_those_of_others() -> None:
    """Of others' clusters an administrator sees whose they are, may stop them, and no dashboard."""
    bobs = cluster(user="bob", mine=False, may_look=False, shared=None)
    found = page(bobs, everyone=True, may_see_all=True)
    assert "of bob" in found.get_text()
    assert "Dashboard" not in found.get_text()
    assert "Share" not in found.get_text()
    assert "Logs" in found.get_text()
    assert found.find("form")["action"].endswith("/stop?all")
    assert not page(cluster(may_stop=False)).find("form")


def test_what_is_shared_with_one() -> None:
    """Of a cluster whose dashboard is shared with one there is the dashboard, and nothing to do."""
    shared = cluster(user="bob", mine=False, may_stop=False, may_read_logs=False, shared=None)
    found = page(shared)
    assert "of bob" in found.get_text()
    assert [each["href"].rpartition("/")[2] for each in found.section.find_all("a")] == ["status"]
    assert not found.find("form")


def test_with_whom_one_shares() -> None:
    """The link says with how many one's dashboard is shared, if with anybody."""
    assert "Share the dashboard" in page(cluster()).get_text()
    shared = cluster(shared={"users": ["bob"], "groups": ["/physics"]})
    assert "Share (now with 2)" in page(shared).get_text()


def test_logs() -> None:
    """A log is shown as it is, of the scheduler or of a worker that one chooses."""
    found = BeautifulSoup(
        render_logs(
            NAME,
            log="a\n<b>",
            worker="w" * 32,
            workers=["v" * 32, "w" * 32],
            user="a",
            now=NOW,
            **WHERE,
        ),
        "html.parser",
    )
    assert found.pre.get_text() == "a\n<b>"
    assert found.find("option", selected=True)["value"] == "w" * 32
    assert len(found.find_all("option")) == 3
    empty = render_logs(NAME, log="", worker=None, workers=[], user="a", now=NOW, **WHERE)
    assert "Nothing was written yet" in empty


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_hostile_logs_and_names(text: str) -> None:
    """What a cluster has written, and with whom somebody wants to share, is shown as text."""
    shared = {"users": [text], "groups": [text], "problem": text, "notice": text}
    pages = (
        render_logs(NAME, log=text, worker=text, workers=[text], user=text, now=NOW, **WHERE),
        render_sharing(NAME, user=text, xsrf="x", **shared, **WHERE),
    )
    for each in pages:
        found = BeautifulSoup(each, "html.parser")
        assert not found.find_all(["script", "img"])
        for tag in found.find_all(True):
            assert not [name for name in tag.attrs if name.startswith("on")]


def test_nothing_to_see() -> None:
    """Without clusters it says how to make one."""
    assert "new_cluster" in page().get_text()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_hostile_texts(text: str) -> None:
    """Whatever a name or a message holds is shown as text."""
    values = {"user": text, "profile": text, "environment": text, "words": text, "state": text}
    found = page(cluster(**values), user=text, notice=text, problem=text, everyone=True)
    assert len(found.find_all("script")) == 1
    assert not found.find("img")
    assert MARK not in "".join(str(each.attrs) for each in found.find_all(["script", "img"]))
    for tag in found.find_all(True):
        assert not [name for name in tag.attrs if name.startswith("on")]


def test_for_everybody() -> None:
    """A language, a title, a main part, headings in order, names for all buttons and links."""
    found = page(cluster(), cluster(name="f" * 32), may_see_all=True)
    assert found.html["lang"] == "en"
    assert found.title.get_text()
    assert found.main
    assert [each.name for each in found.find_all(["h1", "h2"])] == ["h1", "h2", "h2"]
    names = [each.get_text(" ", strip=True) for each in found.find_all("button")]
    assert len(set(names)) == len(names)
    identifiers = [each["id"] for each in found.find_all(id=True)]
    assert len(set(identifiers)) == len(identifiers)


def test_no_script_in_the_page() -> None:
    """The page has no script or style of its own in it, so a strict policy for content holds."""
    text = str(page(cluster()))
    assert "<style" not in text
    assert 'style="' not in text
    assert all(script.get("src") for script in page(cluster()).find_all("script"))


def test_rows_alone() -> None:
    """What a live page fetches is the same sections without the page around them."""
    rows = render_rows([cluster()], base="/services/qhub/clusters", now=NOW, xsrf="x")
    assert rows in render_page(
        [cluster()], now=NOW, user="a", base="/services/qhub/clusters", hub="/", xsrf="x"
    )
    assert "<html" not in rows
