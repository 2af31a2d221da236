"""What a choice would submit, as text: the batch job, the pod, or both; nobody is asked.

`qhub-spawner show` prints it. Secrets are left out, or hidden.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import LiteralScalarString
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from qhub_spawner.access import Person, Selection, select
from qhub_spawner.catalogue import load
from qhub_spawner.errors import ConfigurationError, Problem
from qhub_spawner.hiding import hidden_text
from qhub_spawner.identity import Identity, identity_of
from qhub_spawner.launch import Launch
from qhub_spawner.slurm import script
from qhub_spawner.sources import read_yaml

__all__ = ["Asked", "as_yaml", "show"]

_COLUMNS = 100
_PLACES = {"slurm": "Slurm", "kubernetes": "Kubernetes", "local": "the hub's own machine"}


@dataclass(frozen=True)
class Asked:
    """What is to be shown.

    Attributes:
        profiles: The path of the profiles file.
        person: Who asks.
        profile: The profile's name; ``None`` for the person's default.
        options: What they choose.
        config: A ``jupyterhub_config.py``, which is executed; ``None`` for the defaults.
        identity: A YAML or JSON file with ``auth_state["qhub"]``; ``None`` for nothing known.
    """

    profiles: str
    person: Person
    profile: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    config: Path | None = None
    identity: Path | None = None


def show(asked: Asked) -> str:
    """Return what a choice would submit, of every backend that may be tried.

    Raises:
        QHubSpawnerError: The profiles, the configuration or the identity is not usable, or the
            person may not have that.
    """
    wanted: dict[str, object] = {"options": dict(asked.options)}
    if asked.profile:
        wanted["profile"] = asked.profile
    selection = select(load(asked.profiles), asked.person, wanted)
    config = _executed(asked.config) if asked.config else None
    identity = _identity(asked.identity) if asked.identity else None
    tried = selection.backends[:1] if selection.profile.policy == "ask" else selection.backends
    parts = []
    for at, name in enumerate(tried):
        if len(tried) > 1:
            parts.append(_headline(selection, at, name))
        if name == "slurm":
            parts.append(_job(selection, asked.person, config))
        elif name == "kubernetes":
            parts.append(_pod(selection, asked.person, config, identity))
        else:
            parts.append(f"# {selection.slug}: a process on the hub's machine\n")
            parts.append("jupyterhub-singleuser\n")
    return "".join(parts)


def _headline(selection: Selection, at: int, name: str) -> str:
    if selection.profile.policy == "soonest":
        when = "where it starts soonest; else where there is room"
    else:
        when = "tried first" if at == 0 else "tried where the one before has no room"
    blank = "\n" if at else ""
    return f"{blank}# ==== {_PLACES[name]}: {when} ====\n"


# --- Slurm


def _job(selection: Selection, person: Person, config: Config | None) -> str:
    profile = selection.profile
    defaults, argv = script.Defaults(), ("jupyterhub-singleuser",)
    if config is not None:
        owner = _owner(person, config)
        defaults, argv = owner.slurm_defaults(), (*owner.cmd, *owner.get_args())
    submission = script.Submission(
        name="qhub-HUB-SPAWN",
        comment=script.comment("HUB", person.name, "", "SPAWN"),
        options=script.options_of(profile, defaults),
        script=script.batch_script(profile, argv, defaults),
        environment={},
    )
    program = script.bootstrap().rstrip("\n")
    short = submission.script.replace(program, "# ... qhub_spawner/singleuser.py ...")
    short = short.replace(script.work().rstrip("\n"), "# ... qhub_spawner/work.py ...")
    variables = "".join(f"#   {name}\n" for name in sorted(profile.environment.variables))
    return (
        f"# sbatch, run as {person.name}, with:\n"
        + "".join(f"#   {argument}\n" for argument in submission.arguments)
        + "# its environment, which is never shown, adds to the hub's:\n"
        + variables
        + hidden_text(short)
    )


# --- Kubernetes


def _pod(
    selection: Selection, person: Person, config: Config | None, identity: Identity | None
) -> str:
    # Read when the client is imported: a kubeconfig may name programs to run, and nobody is asked.
    os.environ["KUBECONFIG"] = ""
    try:
        from qhub_spawner.kubernetes.showing import pod_of  # noqa: PLC0415 - it is an extra
    except ImportError as error:
        problem = Problem(
            "the profile's kubernetes block",
            str(error),
            "what the Kubernetes backend needs is not installed",
            "pip install 'qhub-spawner[kubernetes]'",
        )
        raise ConfigurationError([problem]) from error

    # which would say that there is no kubeconfig
    logging.getLogger("kubernetes_asyncio").setLevel(logging.ERROR)

    async def made() -> tuple[str, dict[str, Any]]:
        launch = Launch(
            user=person.name,
            server_name="",
            selection=selection,
            environment={},
            argv=(),
            identity=identity,
        )
        return await pod_of(_owner(person, config or Config()), launch)

    namespace, pod = asyncio.run(made())
    return (
        f"# a pod for {person.name} in the namespace {namespace}; values of its environment that "
        f"may be secret are not shown\n{as_yaml(pod)}"
    )


def _owner(person: Person, config: Config) -> Any:  # noqa: ANN401 - JupyterHub has no types
    """Make the spawner of a person, in a hub that does not run."""
    from qhub_spawner.spawner import QHubSpawner  # noqa: PLC0415 - JupyterHub is slow to import

    name = person.name
    user = SimpleNamespace(
        name=name,
        escaped_name=name,
        id=0,
        url=f"/user/{name}/",
        server=None,
        groups=[SimpleNamespace(name=group) for group in sorted(person.groups)],
    )
    hub = SimpleNamespace(
        public_host="", url="http://HUB/hub/", base_url="/hub/", api_url="http://HUB/hub/api"
    )
    log = logging.getLogger("qhub_spawner.show")
    return QHubSpawner(config=config, user=user, hub=hub, log=log)


# --- files


def _executed(path: Path) -> Config:
    """Execute a ``jupyterhub_config.py``, as the hub does."""
    loader = PyFileConfigLoader(path.name, path=str(path.parent.absolute()))
    try:
        with redirect_stdout(sys.stderr):  # what it prints is not what is shown
            config: Config = loader.load_config()
    except (Exception, SystemExit) as error:  # whatever a configuration raises is its own fault
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).name == path.name
        ]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        message = f"the file cannot be executed here: {type(error).__name__}: {error}"
        accepted = "a jupyterhub_config.py that runs on this machine"
        raise ConfigurationError([Problem(where, "", message, accepted)]) from error
    return config


def _identity(path: Path) -> Identity | None:
    source = read_yaml(path)  # JSON is YAML
    if source.problems:
        raise ConfigurationError(source.problems)
    return identity_of({"qhub": source.data})


def as_yaml(*documents: Mapping[str, Any]) -> str:
    """Return JSON objects as YAML for people to read and ``kubectl apply`` to take."""
    yaml = YAML()
    yaml.width = _COLUMNS
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.ignore_aliases = lambda _data: True
    stream = io.StringIO()
    yaml.dump_all([_laid_out(document) for document in documents], stream)
    return stream.getvalue()


def _laid_out(found: Any, key: str = "") -> Any:  # noqa: ANN401 - JSON
    """Put small things on one line each: variables, and objects of plain values in a list."""
    if isinstance(found, Mapping):
        made = CommentedMap((name, _laid_out(value, name)) for name, value in found.items())
        if key == "[]" and len(made) <= 2 and all(_short(value) for value in found.values()):  # noqa: PLR2004
            made.fa.set_flow_style()
        return made
    if isinstance(found, list | tuple):
        items = CommentedSeq(_laid_out(each, "[]") for each in found)
        if (
            items
            and all(_short(each) for each in found)
            and sum(map(_length, found)) < _COLUMNS // 2
        ):
            items.fa.set_flow_style()
        return items
    if isinstance(found, str) and "\n" in found:
        return LiteralScalarString(found)
    return found


def _short(value: object) -> bool:
    return not isinstance(value, Mapping | list | tuple) and "\n" not in str(value)


def _length(value: object) -> int:
    return len(str(value)) + 2
