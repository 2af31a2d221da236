"""References to secrets, ``${NAME}``, and putting the secrets in their places. Pure.

Keycloak itself fills them from its environment when it imports a file at its start (`kc.sh import`,
`--import-realm`); an import through its console or its REST API takes them as they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from qhub_auth.errors import ConfigurationError

__all__ = ["filled", "references"]

# "${HUB_CLIENT_SECRET}"; Keycloak's own texts look like "${role_admin}" and "${client_account}"
_REFERENCE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")


def references(value: object) -> Iterator[str]:
    """Names that `value`, or what is in it, refers to, each as often as it stands there."""
    if isinstance(value, str):
        yield from _REFERENCE.findall(value)
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from references(each)


def filled(realm: Mapping[str, object], secrets: Mapping[str, str]) -> dict[str, object]:
    """Return a rendered realm with every reference replaced by its secret.

    Raises:
        ConfigurationError: Some have no secret; names them all.
    """
    absent = sorted(set(references(realm)) - set(secrets))
    if absent:
        raise ConfigurationError(f"no secret is given for {', '.join(absent)}")
    return {name: _filled(value, secrets) for name, value in realm.items()}


def _filled(value: object, secrets: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return _REFERENCE.sub(lambda match: secrets[match[1]], value)
    if isinstance(value, Mapping):
        return {name: _filled(each, secrets) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(each, secrets) for each in value]
    return value
