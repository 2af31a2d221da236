"""Kubeconfigs, and the files that only root may read."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

from .places import Places


def write_kubeconfig(
    places: Places, name: str, user: dict[str, str], *, namespace: str = "default"
) -> Path:
    """Write a kubeconfig for root alone; returns its path."""
    cluster = {
        "server": places.api_url,
        "certificate-authority-data": base64_of(places.certificates / "ca.crt"),
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "qhub-test", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [
            {
                "name": name,
                "context": {"cluster": "qhub-test", "user": name, "namespace": namespace},
            }
        ],
        "current-context": name,
    }
    path = places.kubeconfigs / f"{name}.yaml"
    path.unlink(missing_ok=True)
    write_secret(path, json.dumps(document, indent=1).encode())  # YAML that JSON readers read too
    return path


def base64_of(path: Path) -> str:
    """The content of a file as kubeconfigs carry it."""
    return base64.b64encode(path.read_bytes()).decode()


def write_secret(path: Path, data: bytes) -> None:
    """Write a new file that is root's alone from its first moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
