"""Hostile names and choices become no pod but the one that anybody would get, or a clear 4xx.

Every name on the list goes through a real hub: the API server itself says whether what was made of
it is a valid pod, and the kubelet whether its volumes and environment are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest

from qhub_spawner.kubernetes.merging import server_container
from qhub_spawner.kubernetes.personal import path_part
from tests.integration.answers import OPTIONS, SHORT, TEXTS, Answers, Browser, bodies, quoted
from tests.integration.answers import two_of as some_of
from tests.systems import stand_in
from tests.systems.hub import Answer
from tests.systems.kubernetes_hub import RESTRICTED, KubernetesHub, offer_folder
from tests.systems.processes import wait_until
from tests.unit import hostile

# Checked by nobody but us and Kubernetes: the pattern takes everything.
IMAGE = {
    "display_name": "Image",
    "free": {"pattern": "(?s).*", "message": "an image", "sets": "kubernetes.image"},
}
BLOCK = {"cpu_request": "1m", "memory_request": "16 MiB"}
PROFILES: list[dict[str, Any]] = [
    {
        "slug": "lab",
        "display_name": "Lab",
        "default": True,
        "memory": "64 MiB",
        "options": {**OPTIONS, "image": IMAGE},
        "kubernetes": BLOCK,
    },
    {
        "slug": "secret",
        "display_name": "Secret",
        "access": {"groups": ["staff"]},
        "kubernetes": BLOCK,
    },
]
# No node has the label until a test says so: its pods are taken by the API server, and wait.
CONFIG = """
c.QHubSpawner.profiles = {profiles!r}
c.Spawner.cmd = ["python3", "-I", "/program/stand_in.py"]
c.KubeSpawner.node_selector = {{"{label}": "open"}}
c.KubeSpawner.volumes = [{{"name": "program", "persistentVolumeClaim": {{"claimName": "program"}}}}]
c.KubeSpawner.volume_mounts = [{{"name": "program", "mountPath": "/program"}}]
c.KubernetesBackend.home_volume = {{"persistentVolumeClaim": {{"claimName": "homes"}}}}
c.KubernetesBackend.hub_id = "hostile"
c.QHubSpawner.stop_grace = 1
c.JupyterHub.init_spawners_timeout = 1
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0.2, "slow_stop_timeout": 0.2}}
"""
LABEL = "qhub.test/hostile"
DNS_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
LABEL_VALUE = r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?"
# Names that are easily taken for one another, or for something else.
ALIKE = [
    *("a.b", "a_b", "a-b", "a--b", "a%2eb", "a@b", "a b", "a+b", "a:b", "a\\b"),
    *(
        "jupyter-a",
        "a---0123456789abcdef",
        "$(HOME)",
        "$$(HOME)",
        "$(JUPYTERHUB_API_TOKEN)",
        "${HOME}",
    ),
    *("..a", "...a", "{username}", "%", "%2e%2e", "名前", "ü", "u\u0308", "ﬁ", "fi", "ſ", "s"),
    *("x" * 63, "x" * 64, "x" * 253, "x" * 254, "x" * 255, "é" * 255, "名" * 255),
]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """What is mounted into every pod: the program, and the folders of homes."""
    made = Path(tempfile.mkdtemp(prefix="qhub-hostile-"))
    made.chmod(0o755)
    (made / "homes").mkdir(mode=0o755)
    (made / "program").mkdir(mode=0o755)
    shutil.copy(Path(stand_in.__file__), made / "program" / "stand_in.py")
    (made / "program" / "stand_in.py").chmod(0o644)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def hub(kubernetes: Any, user_bin: Path, folder: Path) -> Iterator[KubernetesHub]:
    """A hub whose servers are pods, with a home each on one volume."""
    namespace = kubernetes.make_namespace(labels=RESTRICTED)
    for name in ("homes", "program"):
        offer_folder(kubernetes, namespace, name, folder / name)
    lines = CONFIG.format(profiles=PROFILES, label=LABEL)
    made = KubernetesHub(kubernetes, profiles=lines, namespace=namespace)
    with made:
        made.add_user("alice")
        yield made
    made.tidy()


def pods_by_owner(hub: KubernetesHub) -> dict[tuple[str, str], dict[str, Any]]:
    """The pods that live, by the whole names of person and server that they carry themselves."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for pod in hub.pods().values():
        notes = pod["metadata"]["annotations"]
        key = notes["qhub.dev/user"], notes["qhub.dev/server"]
        if "deletionTimestamp" not in pod["metadata"]:
            assert key not in found
            found[key] = pod
    return found


def pod_of(hub: KubernetesHub, person: str) -> dict[str, Any]:
    """The pod of somebody whose server is being started."""
    return wait_until(lambda: pods_by_owner(hub).get((person, "")), 60, f"the pod of {person}")


def start(hub: KubernetesHub, name: str, server: str = "", body: object = None) -> Answer:
    """Ask for a server, with the name as one part of the address.

    Without a body the hub would take what was chosen the last time, in another test.
    """
    path = f"users/{quoted(name)}/" + (f"servers/{quoted(server)}" if server else "server")
    return hub.api("POST", path, {"profile": "lab"} if body is None else body)


def stop_all(hub: KubernetesHub) -> None:
    """End every server of the hub, and wait until no pod is left."""
    people = [each for each in hub.api("GET", "users?limit=500").json if each["servers"]]

    def stop(person: Mapping[str, Any]) -> None:
        for server in person["servers"]:
            answer = hub.stop_server(person["name"], server)
            assert answer.status in {202, 204}, (person["name"], answer.status, answer.text)
            hub.wait_stopped(person["name"], server)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(stop, people))
    wait_until(lambda: not hub.pods(), 60, "all pods gone", poll_seconds=0.3)


@pytest.fixture(autouse=True)
def nothing_left(hub: KubernetesHub) -> Iterator[None]:
    """Begin each test with alice and no servers, whatever became of the one before."""
    yield
    stop_all(hub)
    for person in hub.api("GET", "users?limit=500").json:
        if person["name"] != "alice":
            answer = hub.api("DELETE", f"users/{quoted(person['name'])}")
            assert answer.status == 204, (person["name"], answer.status, answer.text)


def made_people(answers: Answers, names: Mapping[str, str]) -> list[str]:
    """Make a user of each name that the hub takes; returns the names as the hub has them."""
    people: list[str] = []
    for what, text in names.items():
        made = answers.ask(f"{what}: make", "POST", f"users/{quoted(text)}", 201)
        if made.status == 201:
            people.append(made.json["name"])
    assert len(set(people)) == len(people)
    return people


# Variables that hold a person's name or token.
OWN = {
    *("HOME", "JPY_API_TOKEN", "JUPYTERHUB_API_TOKEN", "JUPYTERHUB_USER", "JUPYTERHUB_CLIENT_ID"),
    *("JUPYTERHUB_SERVICE_PREFIX", "JUPYTERHUB_OAUTH_CALLBACK_URL", "JUPYTERHUB_ACTIVITY_URL"),
    *("JUPYTERHUB_OAUTH_SCOPES", "JUPYTERHUB_OAUTH_ACCESS_SCOPES", "JUPYTERHUB_SERVICE_URL"),
}


def neutral(pod: Mapping[str, Any], person: str) -> Any:
    """Return what a pod is made of, without what must name its person; see `assert_names`."""
    spec = json.loads(json.dumps(pod["spec"]))
    container = server_container({"spec": spec})
    env = {each["name"]: each.get("value") for each in container.pop("env")}
    mounts = [{**each, "mountPath": "", "subPath": ""} for each in container.pop("volumeMounts")]
    container.pop("workingDir")
    labels = dict(pod["metadata"]["labels"])
    notes = dict(pod["metadata"]["annotations"])
    for key in ("qhub.dev/spawn", "hub.jupyter.org/username"):
        labels.pop(key)
    for key in ("qhub.dev/user", "hub.jupyter.org/username"):
        assert notes.pop(key) == person
    shared = {name: value for name, value in env.items() if name not in OWN}
    return spec, sorted(env), shared, mounts, labels, notes


def assert_names(pod: Mapping[str, Any], person: str) -> None:
    """Pod, labels, volumes and paths are valid, and the person is found back from each of them."""
    metadata, container = pod["metadata"], server_container(pod)
    assert re.fullmatch(DNS_LABEL, metadata["name"])
    assert len(metadata["name"]) <= 63
    for value in metadata["labels"].values():
        assert re.fullmatch(LABEL_VALUE, value), value
    (home,) = [each for each in container["volumeMounts"] if "subPath" in each]
    assert home["subPath"] == path_part(person)
    assert "/" not in home["subPath"]
    assert home["subPath"] not in {".", ".."}
    assert len(home["subPath"].encode()) <= 255
    if "%-" not in home["subPath"]:
        assert unquote(home["subPath"], errors="surrogatepass") == person
    assert re.fullmatch(r"/home/[A-Za-z0-9_.@-]+", home["mountPath"])
    assert ".." not in home["mountPath"].split("/")
    env = {each["name"]: each.get("value", "") for each in container["env"]}
    assert env["JUPYTERHUB_USER"].replace("$$", "$") == person
    scopes = json.loads(env["JUPYTERHUB_OAUTH_SCOPES"].replace("$$", "$"))
    assert scopes == [f"access:servers!server={person}/", f"access:servers!user={person}"]
    prefix = env["JUPYTERHUB_SERVICE_PREFIX"]
    assert re.fullmatch(r"/user/[A-Za-z0-9_.~@!*'()$%+-]+/", prefix)
    assert unquote(prefix.replace("$$", "$")) == f"/user/{person}/"
    for value in (*container["command"], *container["args"]):
        assert hostile.MARK not in value


def test_user_names(hub: KubernetesHub) -> None:
    """Every name of the list: refused by the hub, or a pod as anybody's, the API server says."""
    answers = Answers(hub)
    names = {**SHORT, **{each: each for each in ALIKE}, "10 kB": TEXTS["10 kB"]}
    people = made_people(answers, names)
    assert set(ALIKE) - set(people) == {"%2e%2e"}  # JupyterHub itself takes it for ".."
    with ThreadPoolExecutor(8) as pool:
        everybody = ["alice", *people]
        said = dict(zip(everybody, pool.map(partial(start, hub), everybody), strict=True))
    started = [name for name, answer in said.items() if answer.status in {201, 202}]
    for name in said.keys() - set(started):
        answer = said[name]
        assert answer.status == 400, (name, answer.status, answer.text[:300])
        assert "user name" in answer.json["message"]
        assert any(ord(each) < 32 or 127 <= ord(each) < 160 for each in name), name
    pods = wait_until(
        lambda: (found := pods_by_owner(hub)) and len(found) == len(started) and found,
        60,
        "a pod for each",
    )
    assert sorted(pods) == sorted((name, "") for name in started)
    ordinary = neutral(pods["alice", ""], "alice")
    for (name, _), pod in pods.items():
        assert_names(pod, name)
        assert neutral(pod, name) == ordinary, name
    for value in ("name", "uid"):
        assert len({pod["metadata"][value] for pod in pods.values()}) == len(pods)
    homes = {server_container(pod)["volumeMounts"][-1]["subPath"] for pod in pods.values()}
    labels = {pod["metadata"]["labels"]["hub.jupyter.org/username"] for pod in pods.values()}
    assert len(homes) == len(labels) == len(pods)
    stop_all(hub)
    answers.check()


RUN = ["a.b", "a-b", "..a", "$(HOME)", "$$(JUPYTERHUB_API_TOKEN)", "名" * 84, "x" * 255, "a\\b"]


def test_names_in_running_pods(hub: KubernetesHub, folder: Path) -> None:
    """The kubelet mounts each person's own folder, and the server knows its person's name."""
    for name in RUN:
        home = folder / "homes" / path_part(name)
        home.mkdir(exist_ok=True)
        os.chown(home, 1000, 1000)
    hub.cluster.kubectl("label", "node", hub.cluster.node, f"{LABEL}=open")
    try:
        for name in RUN:
            hub.add_user(name)
            assert start(hub, name).status in {201, 202}
        for name in RUN:
            hub.wait_ready(name)
            url = f"{hub.url}user/{quoted(name)}/?touch=" + quote("mine")
            with urllib.request.urlopen(url, timeout=10) as page:
                said = json.loads(page.read())
            assert said["user"] == name
            assert f"access:servers!user={name}" in json.loads(said["scopes"])
            home = folder / "homes" / path_part(name)
            assert [each.name for each in home.iterdir()] == ["mine"]
    finally:
        hub.cluster.kubectl("label", "node", hub.cluster.node, f"{LABEL}-")


SERVERS = ["a", "a-b", "0", "x" * 32, "xn--a"]
SHOWN = ("directive", "command substitution", "double quote", "right to left", "leading dashes")


def test_server_names(hub: KubernetesHub) -> None:
    """What JupyterHub takes becomes a pod of its own; what is only shown reaches no pod."""
    answers = Answers(hub)
    for what, text in SHORT.items():
        answers.ask(
            what, "POST", f"users/alice/servers/{quoted(text)}", 201, 202,
            body={"profile": "no such profile"},
        )  # fmt: skip
    assert hub.pods() == {}
    started = []
    for number, name in enumerate(SERVERS):
        body = {
            "display_name": hostile.TEXTS[SHOWN[number]],
            "user_options": {"profile": "lab"},
        }
        answer = start(hub, "alice", name, body)
        assert answer.status in {201, 202, 400}, answer.text
        if answer.status < 300:
            started.append(name)
    # a person and a server whose names join to the name of another person
    for joined in ("alice--a", "alice-a"):
        hub.add_user(joined)
        assert start(hub, joined).status in {201, 202}
    assert started
    pods = wait_until(
        lambda: (found := pods_by_owner(hub)) and len(found) == len(started) + 2 and found,
        60,
        "a pod for each",
    )
    assert sorted(pods) == sorted(
        [*(("alice", name) for name in started), ("alice--a", ""), ("alice-a", "")]
    )
    assert len({pod["metadata"]["name"] for pod in pods.values()}) == len(pods)
    for pod in pods.values():
        assert hostile.MARK not in json.dumps(pod)
        assert re.fullmatch(DNS_LABEL, pod["metadata"]["name"])
    stop_all(hub)
    answers.check()


def places(text: str) -> dict[str, Any]:
    """Return a hostile text in each place of the API's body that may hold one."""
    overlay = {"profile": "lab", "options": {"image": "x:1"}, "kubernetes": {"image": text}}
    return {
        **bodies(text),
        "as a KubeSpawner option": {"profile": "lab", "size": text},
        "as an unlisted choice": {"profile": "lab", "size--unlisted-choice": text},
        "as a block": overlay,
    }


def test_options_through_api_and_form(hub: KubernetesHub) -> None:
    """Hostile choices are refused before Kubernetes hears of them."""
    answers, browser = Answers(hub), Browser(hub, "alice")
    for number, (what, text) in enumerate(TEXTS.items()):
        for where, body in some_of(places(text), number).items():
            answers.ask(f"{what} {where}", "POST", "users/alice/server", body=body)
        image = ("options.lab.image.free", text)
        forms: dict[str, list[tuple[str, str]]] = {
            "form's profile": [("profile", text)],
            "form's size": [("profile", "lab"), ("options.lab.size", text or "none")],
            "form's field": [("profile", "lab"), (text, "x")],
            "form's other profile": [("profile", text), ("options.lab.image", "_other"), image],
        }
        for where, fields in some_of(forms, number).items():
            answers.take(f"{what} {where}", partial(browser.post, fields))
    assert hub.pods() == {}
    answers.check()


def test_images(hub: KubernetesHub) -> None:
    """An image that anybody may name is one value in its place, or refused; nothing else changes."""
    seen = {}
    before = None
    for what, text in {"plain": "qhub.test/user:1", **SHORT}.items():
        answer = hub.start_server("alice", {"profile": "lab", "options": {"image": text}})
        if answer.status == 400:
            assert "image" in answer.json["message"].lower(), (what, answer.text)
            continue
        assert answer.status in {201, 202}, (what, answer.text)
        pod = pod_of(hub, "alice")
        container = server_container(pod)
        assert container.pop("image") == text
        shape, names, shared, *rest = neutral(pod, "alice")
        assert {shared.pop(name) for name in ("JUPYTER_IMAGE", "JUPYTER_IMAGE_SPEC")} == {text}
        before = before or (shape, names, shared, rest)
        assert (shape, names, shared, rest) == before
        seen[what] = text
        hub.stop_server("alice")
        wait_until(lambda: not hub.pods(), 60, "the pod gone", poll_seconds=0.1)
        hub.wait_stopped("alice")
    assert "plain" in seen
    odd = [text for text in seen.values() if not re.fullmatch(r"[A-Za-z0-9._:/@-]+", text)]
    assert odd == []


def test_two_people_of_one_pod_name(kubernetes: Any, user_bin: Path) -> None:
    """Where a template gives them one name, the second is refused, and the first goes on."""
    lines = CONFIG.format(profiles=PROFILES, label=LABEL)
    lines += 'c.KubeSpawner.pod_name_template = "jupyter-everybody"\n'
    lines += 'c.KubernetesBackend.hub_id = "alike"\n'
    # a refusal is waited for, and a pod that waits for a node for as long
    lines += (
        'c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 10, "slow_stop_timeout": 0.2}\n'
    )
    made = KubernetesHub(kubernetes, profiles=lines)
    with made:
        for name in ("alice", "bob"):
            made.add_user(name)
        assert start(made, "alice").status in {201, 202}
        pod_of(made, "alice")
        pods = pods_by_owner(made)
        assert list(pods) == [("alice", "")]
        answer = start(made, "bob")
        assert answer.status == 409
        assert "of another server is in the way" in answer.json["message"]
        uids = [pod["metadata"]["uid"] for pod in pods.values()]
        assert [pod["metadata"]["uid"] for pod in pods_by_owner(made).values()] == uids
        made.kill()
        made.restart()
        assert start(made, "bob").status == 409
        assert [pod["metadata"]["uid"] for pod in pods_by_owner(made).values()] == uids
    made.tidy()
