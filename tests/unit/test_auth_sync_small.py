"""The small parts of the group sync: bodies, outbox, state, report, configuration, commands afterwards."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from traitlets.config import Config

from qhub_auth.configure import group_sync
from qhub_auth.directory import PersonFacts
from qhub_auth.errors import ConfigurationError
from qhub_auth.sync import afterwards as afterwards_module
from qhub_auth.sync.afterwards import Afterwards, Due, words_of
from qhub_auth.sync.bodies import LARGEST_BATCH, SCOPE, Batch, Entry, Facts, Result
from qhub_auth.sync.outbox import Outbox
from qhub_auth.sync.pacing import Backoff
from qhub_auth.sync.reconciling import GONE, Change, Held
from qhub_auth.sync.report import Report, metrics, shown_status
from qhub_auth.sync.state import SyncState
from qhub_auth.sync.syncing import Syncing
from qhub_auth.sync_service import GroupSync

names = st.text(
    st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]), min_size=1, max_size=20
)
paths = names.map(lambda name: f"/{name}")


@given(
    facts=st.builds(
        PersonFacts,
        sub=names,
        name=names,
        enabled=st.booleans(),
        groups=st.frozensets(paths, max_size=5),
        roles=st.frozensets(names, max_size=5),
        uid=st.none() | st.integers(0, 2**31),
        gid=st.none() | st.integers(0, 2**31),
        home=st.none() | names,
        email=st.just("") | names,
        full_name=st.just("") | names,
    )
)
def test_facts_arrive_as_they_were_sent(facts: PersonFacts) -> None:
    """What the service says of a person is what the hub reads."""
    text = Batch(people=(Entry(sub=facts.sub, facts=Facts.of(facts)),)).model_dump_json()
    read = Batch.model_validate_json(text).people[0].facts
    assert read is not None
    assert read.facts() == facts


@pytest.mark.parametrize(
    "change",
    [
        {"sub": ""}, {"sub": "a\nb"}, {"sub": "a\0b"}, {"sub": 7}, {"sub": "x" * 256}, {"name": None},
        {"enabled": 1}, {"enabled": "true"}, {"groups": ["x"]}, {"groups": ["/a\0"]}, {"groups": "/a"},
        {"roles": [""]}, {"uid": "7"}, {"uid": 7.0}, {"uid": True}, {"uid": 2**32}, {"gid": -1}, {"more": 1},
        {"home": "a\0"}, {"email": "x" * 2000}, {"groups": ["/a"] * 5001},
    ],
)  # fmt: skip
def test_facts_are_checked(change: dict[str, Any]) -> None:
    """Nothing is taken for something else, and nothing without bound."""
    good = {"sub": "s", "name": "n", "enabled": True}
    Facts.model_validate_json(json.dumps(good))
    with pytest.raises(ValidationError):
        Facts.model_validate_json(json.dumps(good | change))


def test_batch_is_bounded() -> None:
    """So many people and no more."""
    Batch(people=(Entry(sub="s"),) * LARGEST_BATCH)
    with pytest.raises(ValidationError):
        Batch(people=(Entry(sub="s"),) * (LARGEST_BATCH + 1))


# ---- the outbox


def change(sub: str, digest: str = "d", **more: Any) -> Change:
    return Change(f"n-{sub}", sub, PersonFacts(sub, f"n-{sub}"), digest, **more)


def test_urgent_first_and_newest_wins() -> None:
    """What an event said goes first; of two changes of one person only the newer one is sent."""
    box = Outbox()
    for number in range(3):
        box.put(change(f"s{number}", "old"), urgent=False)
    box.put(change("s2", "new"), urgent=True)
    assert [(each.sub, each.digest) for each in box.next(2, 0.0)] == [("s2", "new"), ("s0", "old")]
    assert box.urgent
    box.put(change("s2", "newest"), urgent=False)
    assert box.next(1, 0.0)[0].digest == "newest"
    assert box.urgent
    box.forget_comparison()
    assert len(box) == 1


def test_answer_to_an_older_change() -> None:
    """What came while a change was under way stays to be sent."""
    box = Outbox()
    first = change("s", "1")
    box.put(first, urgent=True)
    box.put(change("s", "2"), urgent=True)
    assert not box.answered(first, [Result(sub="s", state="applied")], 0.0)
    assert [each.digest for each in box.next(5, 0.0)] == ["2"]


def test_failures_end() -> None:
    """Who cannot be changed is tried three times, does not hold up the cursor, and is then told of."""
    box = Outbox()
    one = change("s")
    box.put(one, urgent=True)
    failed = [Result(sub="s", state="failed")]
    assert not box.answered(one, failed, 0.0)
    assert not box.urgent
    assert not box.answered(one, [], 0.0)
    assert box.answered(one, failed, 0.0)
    assert not box


def test_servers_that_go_on() -> None:
    """Servers are asked for again each ten seconds until they are gone, and after the grace time at the latest."""
    box = Outbox(grace_seconds=100.0)
    gone = Change("n", "s", None, GONE)
    box.put(gone, urgent=True)
    assert not box.entry(gone, 1000.0).stop_servers
    running = [Result(sub="s", state="ended", servers=1)]
    box.answered(gone, running, 1000.0)
    assert box.next(5, 1050.0) == []
    assert box.next(5, 1101.0) == [gone]
    assert box.entry(gone, 1101.0).stop_servers
    box.answered(gone, running, 1101.0)
    assert box.next(5, 1105.0) == []
    assert box.next(5, 1112.0) == [gone]
    box.answered(gone, [Result(sub="s", state="ended")], 1112.0)
    assert not box.ending
    assert box.next(5, 9999.0) == []


# ---- what is kept


class Store:
    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.writes = 0

    def cursor(self, name: str) -> str | None:
        return self.kept.get(name)

    def set_cursor(self, name: str, value: str) -> None:
        self.writes += 1
        self.kept[name] = value


def test_state_of_another_realm_counts_for_nothing() -> None:
    """What was kept for another realm is not taken for this one's; what is broken is as if it were not there."""
    store = Store()
    state = SyncState(store, "a")
    state.set_ending({"s": 1.0})
    state.set_ending({"s": 1.0})
    assert store.writes == 1
    assert state.ending() == {"s": 1.0}
    assert SyncState(store, "b").ending() == {}
    for broken in ("", "x", "[]", '{"realm": "a"}', '{"realm": "a", "value": 7}'):
        store.kept = dict.fromkeys(
            (f"group-sync:{name}" for name in ("cursor", "ending", "held", "confirmed", "status")),
            broken,
        )
        assert state.cursor() is None
        assert state.ending() == state.status() == {}
        assert state.held() is None
        assert state.confirmed() == frozenset()


def test_confirm_is_exact() -> None:
    """Only the id of what is held confirms it; what was confirmed is forgotten when it is done."""
    state = SyncState(Store(), "a")
    held = Held({"s1": "n1"}, {"s2": frozenset({"/a"})}, 10, 20)
    assert not state.confirm(held.id)
    state.set_held(held, 5.0)
    assert not state.confirm("nonsense")
    assert state.confirm(held.id)
    assert state.confirmed() == held.items
    state.forget_confirmed()
    assert state.confirmed() == frozenset()
    state.set_held(None)
    assert state.held() is None
    assert (
        str(held) == "1 of 10 people are missing and 1 people would lose 1 of 20 groups and roles"
    )


# ---- what is said


def test_report() -> None:
    """The report names each person to whom something would happen, and why."""
    report = Report(people=3, groups=2, users=4, unknown=1)
    report.add(Result(sub="1", name="a", state="applied", gained=("/x",), lost=("/y",)))
    report.add(Result(sub="2", name="b", state="ended", why="disabled"))
    report.add(Result(sub="3", name="c", state="applied"))
    report.add(Result(sub="4", name="d", state="failed", why="no number"))
    report.add(Result(sub="5", name="e", state="unchanged"))
    report.add(Result(sub="6", name="f", state="unknown"))
    text = report.text()
    assert "  a: -/y +/x" in text
    assert "  b: may not go on: disabled" in text
    assert "  c: numbers, folders or administrator" in text
    assert "  d: cannot be changed: no number" in text
    assert [each["name"] for each in json.loads(report.json())["changes"]] == ["a", "b", "c", "d"]
    assert "Nothing would change." in Report().text()
    report.held = Held({"s": "n"}, {}, 1, 1)
    assert report.held.id in report.text()
    assert json.loads(report.json())["held"]["id"] == report.held.id


def test_status_and_metrics() -> None:
    """Status and metrics say when all was done last, what is held, and what trouble there is."""
    assert "has not run yet" in shown_status({}, None, 100.0)
    assert "qhub_group_sync_keycloak_up 0" in metrics({}, None, 100.0)
    status = {"at": 90.0, "pid": 7, "last_success": 80.0, "last_full": 70.0, "full_seconds": 1.25, "people": 3,
              "groups": 2, "users": 4, "waiting": 5, "keycloak": "no answer", "hub": "", "events_kept": False,
              "counts": {"applied": 9}, "keycloak_calls": 11}  # fmt: skip
    held = {"id": "abc", "what": "many"}
    text = shown_status(status, held, 100.0)
    for part in (
        "20 s ago",
        "30 s ago",
        "5 people wait",
        "trouble with Keycloak: no answer",
        "confirm abc",
        "no admin",
    ):
        assert part in text
    lines = metrics(status, held, 100.0).splitlines()
    assert "qhub_group_sync_last_success_age_seconds 20.0" in lines
    assert "qhub_group_sync_held 1" in lines
    assert "qhub_group_sync_hub_up 1" in lines
    assert 'qhub_group_sync_people_total{state="applied"} 9' in lines


# ---- configuration


def test_configure_adds_and_keeps() -> None:
    """Service, scope and role come beside what was configured before; the role has the one scope."""
    c = Config()
    c.JupyterHub.services = [{"name": "other"}]
    c.JupyterHub.load_roles = [{"name": "r"}]
    c.JupyterHub.custom_scopes = {"custom:mine": {"description": "d"}}
    group_sync(c, config_file="auth.py")
    hub = c.JupyterHub
    assert [each["name"] for each in hub.services] == ["other", "qhub-group-sync"]
    command = hub.services[1]["command"]
    assert command[:3] == [sys.executable, "-m", "qhub_auth.sync_service"]
    assert command[3] == "--config"
    assert Path(command[4]).is_absolute()
    assert set(hub.custom_scopes) == {"custom:mine", SCOPE}
    assert hub.load_roles[1] == {
        "name": "qhub-group-sync",
        "services": ["qhub-group-sync"],
        "scopes": [SCOPE],
    }
    fresh = Config()
    group_sync(fresh, config_file="auth.py", managed=False, api_token="t")
    assert fresh.JupyterHub.services == [{"name": "qhub-group-sync", "api_token": "t"}]
    with pytest.raises(ValueError, match="api_token"):
        group_sync(Config(), config_file="auth.py", managed=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("c = get_config()\nc.GroupSync.poll_seconds = 1\nopen('/no/secret')", "FileNotFoundError"),
        ("c = get_config(\n", "SyntaxError"),
    ],
)
def test_settings_that_fail(tmp_path: Path, text: str, words: str) -> None:
    """A settings file that fails ends the command, which names file and error, and nothing is done with half of it."""
    path = tmp_path / "qhub_auth_config.py"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=f"{path} .*{words}"):
        GroupSync().initialize(["--config", str(path)])


@pytest.mark.parametrize("command", ["status", "report", "confirm x"])
def test_looking_makes_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """What only looks says which database is missing, beside the settings file, and makes none."""
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    site.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    path = site / "auth.py"
    keycloak = '{"issuer": "https://k/realms/r", "client_id": "hub", "client_secret": "x", "service_client_id": "s", "service_client_secret": "x"}'
    path.write_text(
        f"c = get_config()\nc.Keycloak.update({keycloak})\nc.GroupSync.hub_url = 'http://127.0.0.1:9/'\n"
    )
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "x")
    service = GroupSync()
    service.initialize(["--config", str(path), *command.split()])
    monkeypatch.setattr(Syncing, "once", lambda self, _: asyncio.to_thread(self.state.confirmed))
    with pytest.raises(ConfigurationError, match=f"no file {site}/qhub_identity.sqlite"):
        service.command()
    assert [each.name for each in (*site.iterdir(), *elsewhere.iterdir())] == ["auth.py"]


def test_hub_and_service_mean_one_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the hub's own file is in another folder than the one it shares with the service."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "auth.py").touch()
    monkeypatch.chdir(tmp_path)
    c = Config()
    group_sync(c, config_file="shared/auth.py")
    assert c.Identities.database_url == f"sqlite:///{shared}/qhub_identity.sqlite"
    c.Identities.database_url = "postgresql://hub:s3cret@h/d"
    group_sync(c, config_file="shared/auth.py", name="other")
    assert c.Identities.database_url == "postgresql://hub:s3cret@h/d"


# ---- waiting and commands


def test_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting gets longer with each failure, up to a quarter of a minute or so, and ends with a success."""
    now = 0.0
    monkeypatch.setattr("qhub_auth.sync.pacing.time.monotonic", lambda: now)
    backoff = Backoff()
    assert backoff.ready
    waits = []
    for _ in range(10):
        backoff.failed("why")
        waits.append(backoff.until)
        assert not backoff.ready
    assert 0.75 <= waits[0] <= 1.25
    assert 11.25 <= waits[-1] <= 18.75
    assert backoff.succeeded()
    assert backoff.ready
    assert not backoff.succeeded()


async def _run(afterwards: Afterwards, done: Any, seconds: float = 20.0) -> None:
    task = asyncio.create_task(afterwards.run())
    afterwards.changed()
    try:
        async with asyncio.timeout(seconds):
            while not done():
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_commands_afterwards(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Commands run in order, without a shell; one that fails is told, and is run again with those after it."""
    notes = tmp_path / "notes"
    note = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n')"
    tried = tmp_path / "tried"
    fail = (
        f"import os, sys; there = os.path.exists({str(tried)!r}); open({str(tried)!r}, 'w'); "
        "there or sys.exit('no $HOME')"
    )
    commands = [
        [sys.executable, "-c", note, str(notes), "$HOME; echo"],
        [sys.executable, "-c", fail],
        [sys.executable, "-c", note, str(notes), "after"],
    ]
    afterwards = Afterwards(commands, settle=0.0, timeout=30.0, log=logging.getLogger("after"))
    with caplog.at_level(logging.INFO):
        await _run(afterwards, lambda: caplog.text.count("done in") >= 4)
    assert notes.read_text() == "$HOME; echo\nafter\nafter\n"
    assert "exit code 1: 'no $HOME'" in caplog.text


async def test_commands_that_cannot_run(caplog: pytest.LogCaptureFixture) -> None:
    """A command that is absent, or takes too long, is told and harms nothing."""
    commands = [["/nowhere/at/all"], [sys.executable, "-c", "import time; time.sleep(600)"]]
    afterwards = Afterwards(commands, settle=0.0, timeout=0.3, log=logging.getLogger("after"))
    with caplog.at_level(logging.INFO):
        await _run(afterwards, lambda: "was ended after" in caplog.text)
    assert "cannot be run: No such file" in caplog.text


def test_what_is_due() -> None:
    """A change leads to one run of all once it has settled, however long one that fails would wait; that one alone is run again, after longer and longer waits of its own."""
    due = Due(3, settle=60.0)
    assert due.taken(0.0) == []
    assert due.seconds(0.0) is None
    due.changed(0.0)
    due.changed(50.0)
    assert due.seconds(50.0) == 10.0
    assert due.taken(59.0) == []
    assert due.taken(60.0) == [0, 1, 2]
    waits, now = [], 60.0
    for _ in range(12):
        due.failed(1, now)
        waits.append(due.seconds(now))
        now += waits[-1] or 0.0
        assert due.taken(now) == [1]
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == 900.0
    due.failed(1, now)
    due.failed(2, now)
    assert due.seconds(now) == 1.0
    due.changed(now + 0.5)
    assert due.taken(now + 1.0) == [2]
    due.failed(2, now + 1.0)
    assert due.seconds(now + 3.0) == 0.0
    assert due.taken(now + 60.5) == [0, 1, 2]
    assert not due.done(0)
    assert due.done(1)
    assert due.done(2)
    assert due.seconds(now + 60.5) is None


async def test_a_change_is_not_held_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While one command waits to be run again, a new change runs all of them at once; what fails in another way is told, the same is not."""
    monkeypatch.setattr(afterwards_module, "_FIRST_AGAIN_SECONDS", 900.0)
    says, ran = tmp_path / "says", tmp_path / "ran"
    fail = f"import sys; print(open({str(says)!r}).read()); sys.exit(1)"
    note = f"open({str(ran)!r}, 'a').write('x')"
    commands = [[sys.executable, "-c", fail], [sys.executable, "-c", note]]
    afterwards = Afterwards(commands, settle=0.0, timeout=60.0, log=logging.getLogger("after"))
    task = asyncio.create_task(afterwards.run())
    try:
        async with asyncio.timeout(60):
            problems = ["problem: alice", "problem: alice", "problem: bob\nproblem: alice"]
            for count, problem in enumerate(problems, 1):
                says.write_text("new\n" * 5000 + problem)
                afterwards.changed()
                while not ran.exists() or len(ran.read_text()) < count:
                    await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.wait({task})
    told = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert [each.rpartition("new; ")[2] for each in told] == [
        "problem: alice'",
        "problem: bob; problem: alice'",
    ]
    assert all(len(each) < 3000 for each in told)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/opt/qhub-identity --config /etc/a.py ensure-dirs", None),
        ("/opt/x --token abc --password=abc run", "/opt/x --token *** --password=*** run"),
        ("env API_KEY=abc /opt/x postgresql://u:abc@h/d", "env *** /opt/x ***"),
        ("x --url=https://u:abc@h/ --client-secret -v", "x --url=*** --client-secret -v"),
    ],
)
def test_a_command_in_the_log(command: str, words: str | None) -> None:
    """It is shown whole, so that one of several is known by it; what may be a secret is not."""
    assert words_of(command.split()) == repr(words or command)


async def test_no_commands() -> None:
    """Without commands nothing is waited for."""
    afterwards = Afterwards([], settle=0.0, timeout=1.0, log=logging.getLogger("after"))
    afterwards.changed()
    task = asyncio.create_task(afterwards.run())
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    await asyncio.wait({task})


def test_realm_of_the_benchmark() -> None:
    """It has as many people and groups as it says, and everybody is in groups that exist."""
    from benchmarks.people import realm_of, team_paths

    realm = realm_of(300, 40)
    assert sum(1 for group in realm.groups for _ in group.paths()) == 40
    assert len(realm.people) == 300
    assert {path for person in realm.people for path in person.groups} <= set(team_paths(40))
