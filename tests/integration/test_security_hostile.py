"""Whatever a person sends is a clear 4xx within two seconds, runs nothing and injects nothing.

The hostile list goes through the JSON API, the form, the address of the page, and the names of
users, groups and servers; then Hypothesis sends any JSON there is.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qhub_spawner.access import Person, select
from qhub_spawner.catalogue import load
from qhub_spawner.errors import SelectionError
from tests.examples import examples
from tests.integration.answers import (
    OPTIONS,
    SHORT,
    TEXTS,
    Answers,
    Browser,
    bodies,
    is_json,
    quoted,
    two_of,
)
from tests.systems import stand_in
from tests.systems.hub import HubSystem
from tests.unit import hostile

PROFILES: list[dict[str, Any]] = [
    {"slug": "lab", "display_name": "Lab", "default": True, "options": OPTIONS, "local": {}},
    {
        "slug": "secret",
        "display_name": "Secret",
        "access": {"groups": ["staff"]},
        "local": {},
    },
]
# The account is checked by nobody but Slurm: its pattern takes everything.
ACCOUNT = {
    "display_name": "Account",
    "free": {"pattern": "(?s).*", "message": "an account", "sets": "slurm.account"},
}
ON_SLURM: list[dict[str, Any]] = [
    {
        **PROFILES[0],
        "memory": "50 MiB",
        "options": {**OPTIONS, "account": ACCOUNT},
        "local": None,
        "slurm": {"partition": "general"},
    }
]


def config(profiles: list[dict[str, Any]], program: Path) -> str:
    """Return lines of configuration for a hub of these profiles."""
    plain = [{key: value for key, value in each.items() if value is not None} for each in profiles]
    return f"""
c.QHubSpawner.profiles = {plain!r}
c.Spawner.cmd = ["/usr/bin/python3", "-I", "{program}"]
"""


@pytest.fixture(scope="module")
def hub(user_bin: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubSystem]:
    """A hub whose servers are local."""
    from tests.systems.userenv import product_site

    folder = tmp_path_factory.mktemp("hostile")
    for part in (folder, *list(folder.parents)[:3]):
        part.chmod(part.stat().st_mode | 0o055)
    made = HubSystem(
        folder / "hub",
        config(PROFILES, Path(stand_in.__file__))
        + f'c.LocalBackend.home = "{folder}/homes"\nc.JupyterHub.allow_named_servers = True\n',
        environment_bin=user_bin,
        python_path=product_site(folder),
    )
    made.start()
    made.add_user("alice")
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def slurm_hub(slurm: Any, user_bin: Any) -> Iterator[Any]:
    """A hub whose servers are Slurm jobs."""
    from tests.systems.slurm_hub import SlurmHub

    program = Path(slurm.run_folder) / "stand_in.py"
    shutil.copy(Path(stand_in.__file__), program)
    program.chmod(0o755)
    own = 'c.SlurmBackend.hub_id = "hostile"\n'
    made = SlurmHub(slurm, profiles=config(ON_SLURM, program), config=own)
    made.start()
    made.add_user("alice")
    try:
        yield made
    finally:
        made.stop()
        slurm.run(["scancel", "--user=alice,bob"], check=False)


def jobs_of_hostile(slurm: Any) -> dict[int, str]:
    """Return this hub's live jobs, as Slurm shows each; other tests' may not be gone yet."""
    out = slurm.run(["scontrol", "-dd", "show", "job"]).stdout
    blocks = [each for each in out.split("\n\n") if "JobName=qhub-hostile-" in each]
    live = [each for each in blocks if re.search(r"JobState=(PENDING|CONFIG|RUNNING|COMPL)", each)]
    live = [each for each in live if "JobState=COMPLETED" not in each]
    return {int(each.split()[0].partition("=")[2]): each for each in live}


# ---- the API ------------------------------------------------------------------------------------


def test_texts_through_the_api(hub: HubSystem) -> None:
    """Hostile names and values of profiles and options."""
    answers = Answers(hub)
    for number, (what, text) in enumerate(TEXTS.items()):
        for where, body in two_of(bodies(text), number).items():
            answers.ask(f"{what} {where}", "POST", "users/alice/server", body=body)
    answers.check()


def test_shapes_through_the_api(hub: HubSystem) -> None:
    """Wrong types, wrong nesting, deep, wide and broken bodies."""
    answers = Answers(hub)
    shapes = {what: data for what, data in hostile.DATA.items() if is_json(data)}
    types = {what: data for what, data in hostile.wrong_types().items() if is_json(data)}
    for what, data in shapes.items():
        answers.ask(f"{what} as a body", "POST", "users/alice/server", body=data)
        wrapped = {"user_options": data}
        answers.ask(f"{what} wrapped", "POST", "users/alice/servers/x", body=wrapped)
    for what, value in types.items():
        for where, body in bodies("").items():
            if where in {"as option", "as field"}:
                continue
            text = json.dumps(body).replace('""', json.dumps(value))
            answers.ask(f"{what} {where}", "POST", "users/alice/server", raw=text.encode())
        text = json.dumps({"profile": "lab", "options": value})
        # an empty list of options is none of them; the rest is no object
        answers.ask(f"{what} as options", "POST", "users/alice/server", raw=text.encode())
    raws = {
        "deep": b"[" * 1_000_000,
        "deep objects": b'{"options":' * 200_000,
        "deep and closed": b"[" * 100_000 + b"]" * 100_000,
        "no JSON": b"profile=lab",
        "no text": b"\xff\xfe\x00",
        "NUL": b"\0",
        "ten megabytes of nothing": b" " * 10_000_000 + b"x",
        "ten megabytes of list": b"[" + b"0," * 5_000_000 + b"0]",
        "a huge number": b'{"profile": ' + b"9" * 100_000 + b"}",
        "twice": b'{"profile": "lab", "profile": "nope"}',
    }
    for what, raw in raws.items():
        answers.ask(what, "POST", "users/alice/server", raw=raw)
    answers.check()


def test_forbidden_is_refused_by_name(hub: HubSystem) -> None:
    """The refusal says what was asked for and what this person may have, and is one line."""
    answer = hub.start_server("alice", {"profile": "secret"})
    assert answer.status == 403
    assert "secret" in answer.json["message"]
    assert "lab" in answer.json["message"]
    answer = hub.start_server("alice", {"profile": "a\n#SBATCH --uid=0"})
    assert answer.status == 400
    assert "\n" not in answer.json["message"]
    log = hub.log.read_text()
    assert "\n#SBATCH" not in log
    Answers(hub).check()


def test_what_was_refused_is_forgotten(hub: HubSystem) -> None:
    """The hub keeps what a person chose last, not what was refused since, which may be huge."""
    hub.add_user("carol")
    before = {"profile": "lab", "options": {"size": "large", "memory": "60 MiB", "walltime": "9m"}}
    assert hub.start_server("carol", before).status in {201, 202}
    hub.wait_ready("carol")
    hub.stop_server("carol")
    hub.wait_stopped("carol")
    for refused in ({"profile": hostile.ten_megabytes()}, {"profile": "secret"}, {"cmd": "x"}):
        assert hub.start_server("carol", refused).status in {400, 403}
        assert (hub.server("carol") or {})["user_options"] == before
    assert hub.start_server("carol").status in {201, 202}  # with no choice it is the last one
    hub.wait_ready("carol")
    hub.stop_server("carol")
    hub.wait_stopped("carol")
    assert (hub.server("carol") or {})["user_options"] == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
    | st.sampled_from(["lab", "secret", "small", "large", "1 GiB", "10m", "profile", "options"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    | st.fixed_dictionaries({}, optional={"profile": inner, "options": inner}),
    max_leaves=12,
)  # fmt: skip
OBJECTS = st.dictionaries(st.text(max_size=10), JSON, max_size=4) | st.fixed_dictionaries(
    {},
    optional={
        "profile": JSON,
        "options": JSON
        | st.dictionaries(st.sampled_from(["size", "memory", "walltime"]) | st.text(), JSON),
    },
)


@settings(
    max_examples=examples(60),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(options=OBJECTS)
def test_any_json_through_the_api(hub: HubSystem, options: dict[str, Any]) -> None:
    """The running hub says what the one function of access says: a start, or its 4xx."""
    try:
        select(load(PROFILES), Person("alice"), options)
    except SelectionError as refusal:
        expected = {refusal.status_code}
    else:
        expected = {201, 202}
    body = {"user_options": options, "display_name": ""}
    answer = hub.start_server("alice", body)
    assert answer.status in expected, answer.text
    if answer.status < 300:
        hub.wait_ready("alice")
        hub.stop_server("alice")
        hub.wait_stopped("alice")


# ---- the form and its address -------------------------------------------------------------------


@pytest.fixture
def browser(hub: HubSystem) -> Browser:
    """Alice's."""
    return Browser(hub, "alice")


def test_texts_through_the_form(hub: HubSystem, browser: Browser) -> None:
    """Hostile fields with real cookies: refused, and shown again without becoming markup."""
    answers = Answers(hub)
    for number, (what, text) in enumerate(TEXTS.items()):
        chosen = ("profile", "lab")
        other = ("options.lab.memory", "_other")
        forms: dict[str, list[tuple[str, str]]] = {
            "as profile": [("profile", text)],
            "as choice": [chosen, ("options.lab.size", text)],
            "as free value": [chosen, other, ("options.lab.memory.free", text)],
            "as field": [chosen, (text, "x")],
            "as option": [chosen, (f"options.lab.{text}", "small")],
            "as profile of an option": [("profile", text), (f"options.{text}.size", "small")],
        }
        if what == "empty":  # an option left open is its default
            del forms["as choice"]
        for where, fields in two_of(forms, number).items():
            answer = answers.take(f"{what} {where}", partial(browser.post, fields))
            assert f"<script>document.title='{hostile.MARK}'" not in answer.text
            assert "<img src=x" not in answer.text
        if len(text) < 1000 and not set(text) & {"\r", "\n", '"'}:
            fields = [("profile", text)]
            answers.take(f"{what} in parts", partial(browser.post, fields, multipart=True))
    answers.check()


def test_files_twice_and_nothing_through_the_form(hub: HubSystem, browser: Browser) -> None:
    """A field twice, an uploaded file, no profile, too many fields; and no XSRF token at all."""
    answers = Answers(hub)
    lab = ("profile", "lab")
    forms: dict[str, list[tuple[str, str]]] = {
        "twice": [lab, lab],
        "an option twice": [lab, ("options.lab.size", "small"), ("options.lab.size", "large")],
        "nothing": [],
        "wide": [lab, *((f"options.lab.x{number}", "x") for number in range(20_000))],
        "the hub's attribute": [lab, ("cmd", "/bin/sh")],
        "other without value": [lab, ("options.lab.memory", "_other")],
    }
    for what, fields in forms.items():
        answers.take(what, partial(browser.post, fields))
    file = 'profile"; filename="x'
    answers.take("a file", lambda: browser.post([(file, "lab")], multipart=True))
    action, parts = browser.form.action, "multipart/form-data; boundary=hostile"
    answers.take("broken parts", lambda: browser.send(action, b"--hostile", parts))
    url, kind = browser.url, "application/x-www-form-urlencoded"
    answers.take("no XSRF token", lambda: browser.send(url, b"profile=lab", kind))
    answers.check()


def test_texts_through_the_address(hub: HubSystem, browser: Browser) -> None:
    """A hostile address preselects nothing, starts nothing, and never becomes markup."""
    answers = Answers(hub)
    for what, text in SHORT.items():
        value = quote(text, safe="", errors="surrogatepass")
        for query in (
            f"profile={value}",
            f"profile=lab&options.size={value}",
            f"profile=lab&options.memory={value}",
            f"profile=lab&{value}=x",
            f"profile=lab&options.{value}=small",
        ):
            send = partial(browser.send, f"{browser.url}?{query}", None, "")
            # the page comes, says that it does not know this, and offers what there is
            answer = answers.take(f"{what}: {query[:80]}", send, 200)
            assert f"<script>document.title='{hostile.MARK}'" not in answer.text
            assert "<img src=x" not in answer.text
            if answer.status == 200:
                assert 'value="lab"' in answer.text
    long = browser.send(f"{browser.url}?profile={'a' * 60_000}", None, "")
    assert long.status == 431  # says the proxy: longer than any address may be
    answers.check()


# ---- names --------------------------------------------------------------------------------------


def test_user_names(slurm_hub: Any, slurm: Any) -> None:
    """No hostile user name is an account: a server of theirs is refused; nothing is submitted."""
    answers = Answers(slurm_hub)
    for what, text in SHORT.items():
        made = answers.ask(f"{what}: make", "POST", f"users/{quoted(text)}", 201)
        if made.status == 201:
            name = made.json["name"]
            answers.ask(f"{what}: start", "POST", f"users/{quoted(name)}/server", body={})
            answers.ask(f"{what}: look", "GET", f"users/{quoted(name)}/qhub/profiles", 200)
    for name in ("root", "daemon", "ｒｏｏｔ", "nobody", "qhub", "slurm"):
        slurm_hub.add_user(name)
        answer = answers.ask(name, "POST", f"users/{quoted(name)}/server", body={})
        assert "may not" in answer.text or "account" in answer.text
    assert jobs_of_hostile(slurm) == {}
    answers.check()


def test_group_names(hub: HubSystem) -> None:
    """A group may have any name that JupyterHub takes; it opens no profile and breaks no page."""
    answers = Answers(hub)
    groups = []
    for what, text in {**SHORT, "look-alike of staff": "stаff", "wide": "ｓｔａｆｆ"}.items():
        made = answers.ask(f"{what}: make", "POST", f"groups/{quoted(text)}", 201)
        if made.status == 201:
            groups.append(made.json["name"])
            answers.ask(
                f"{what}: join", "POST", f"groups/{quoted(groups[-1])}/users", 200,
                body={"users": ["alice"]},
            )  # fmt: skip
    assert groups
    try:
        answers.ask("profiles", "GET", "users/alice/qhub/profiles", 200)
        assert hub.start_server("alice", {"profile": "secret"}).status == 403
        answers.check()
    finally:
        for name in groups:
            hub.api("DELETE", f"groups/{quoted(name)}")


NASTY = ("directive", "command substitution", "double quote", "right to left", "leading dashes")


def test_server_names(slurm_hub: Any, slurm: Any) -> None:
    """JupyterHub takes no such name; a display name, which may be anything, reaches no job."""
    answers = Answers(slurm_hub)
    for what, text in SHORT.items():
        if quoted(text) not in {"", "general"}:
            path = f"users/alice/servers/{quoted(text)}"
            answers.ask(what, "POST", path, body={"profile": "no such profile"})
    started = []
    for number, what in enumerate(NASTY):
        body = {"display_name": hostile.TEXTS[what], "user_options": {"profile": "lab"}}
        path = f"users/alice/servers/shown-{number}"
        answer = slurm_hub.api("POST", path, body)
        assert answer.status in {201, 202, 400}, answer.text
        if answer.status < 300:
            started.append(f"shown-{number}")
    assert started
    owners = []
    for block in jobs_of_hostile(slurm).values():
        assert hostile.MARK not in block
        assert "UserId=alice(" in block
        assert "Partition=general" in block
        comment = block.partition("Comment=")[2].partition("\n")[0]
        owners.append(json.loads(comment)["server"])
    assert sorted(owners) == started
    for name in started:
        slurm_hub.stop_server("alice", name)
    slurm.wait_until(lambda: not jobs_of_hostile(slurm), 60, "all of them stopped")
    answers.check()


def test_values_that_only_slurm_can_refuse(slurm_hub: Any, slurm: Any) -> None:
    """A free value whose pattern takes everything is refused here, or by Slurm as one value."""
    answers = Answers(slurm_hub)
    for what, text in SHORT.items():
        body = {"profile": "lab", "options": {"account": text}}
        answers.ask(what, "POST", "users/alice/server", body=body)
    assert jobs_of_hostile(slurm) == {}
    answers.check()
