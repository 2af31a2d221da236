"""`qhub-identity realm FILE.yaml`: a realm of a few lines of YAML, as Keycloak imports it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from qhub_auth.errors import ConfigurationError, shown
from qhub_auth.realm.model import RealmModel
from qhub_auth.realm.rendering import render
from qhub_auth.realm.secrets import filled, references

__all__ = ["add_to", "read"]

_LARGEST_BYTES = 4 * 1024 * 1024


def add_to(verbs: Any) -> None:  # noqa: ANN401 - argparse keeps the class to itself
    """Add `realm` to a command's verbs.

    It sets ``run``: a function of the parsed arguments that returns what to print.
    """
    words = "print a realm as JSON for Keycloak to import"
    parser = verbs.add_parser("realm", help=words, description=f"{words[0].upper()}{words[1:]}.")
    parser.add_argument("file", type=Path, metavar="FILE.yaml")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--secrets",
        type=Path,
        metavar="FILE",
        help="fill in references from this file: a line NAME=VALUE for each",
    )
    source.add_argument(
        "--env", action="store_true", help="fill in references from the environment"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> str:
    realm = render(read(arguments.file))
    if arguments.env:
        given = {name: os.environ[name] for name in references(realm) if os.environ.get(name)}
        realm = filled(realm, given)
    elif arguments.secrets:
        realm = filled(realm, _secrets(arguments.secrets))
    return json.dumps(realm, indent=2, ensure_ascii=False) + "\n"


def read(path: Path) -> RealmModel:
    """Read a realm from YAML.

    Raises:
        ConfigurationError: It cannot be read, or is not a realm; names each field that is wrong,
            without its value.
    """
    try:
        document = YAML(typ="safe").load(_text(path))
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigurationError(f"{path}{line}: this is not YAML: {error.problem}") from error
    except (YAMLError, ValueError) as error:
        raise ConfigurationError(f"{path}: this is not YAML") from error
    try:
        return RealmModel.model_validate(document)
    except ValidationError as error:
        # without the values: one of them may be a secret
        problems = (
            f"  {_place(each['loc'])}: {each['msg']}"
            for each in error.errors(include_input=False, include_url=False)
        )
        raise ConfigurationError("\n".join([f"{path} is not a realm:", *problems])) from None


def _place(parts: tuple[int | str, ...]) -> str:
    """Where in the file, e.g. ``groups[1].gid``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".") or "the file"


def _secrets(path: Path) -> dict[str, str]:
    """Secrets of a file, as systemd and shells read them: NAME=VALUE, ``#`` for remarks."""
    found: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        name, separator, value = line.strip().partition("=")
        if not name or name.startswith("#"):
            continue
        if not separator:
            raise ConfigurationError(f"{path}, line {number}: expected NAME=VALUE")
        quote = value[:1]
        quoted = len(value) > 1 and quote in {"'", '"'} and value.endswith(quote)
        found[name.strip()] = value[1:-1] if quoted else value
    return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ConfigurationError(f"{path}: the file is too large; at most 4 MiB")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigurationError(f"{shown(str(path), 200)}: {reason}") from error
