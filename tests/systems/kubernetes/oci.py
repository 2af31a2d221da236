"""Image archives in the OCI layout, put together from tar files, without a registry or a builder.

Source: the OCI image specification 1.0 (image-layout, manifest, config).
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
CHUNK_BYTES = 1 << 20
CREATED = "2026-01-01T00:00:00Z"  # fixed, so that the same layers make the same image
TYPES = "application/vnd.oci.image"


@dataclass(frozen=True)
class Image:
    """What one image consists of.

    Attributes:
        name: Its full name with the tag.
        layers: Uncompressed tar files, the lowest first.
        command: What runs when a pod names no command.
        environment: The variables that every container of it has.
    """

    name: str
    layers: Sequence[Path]
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def write_archive(image: Image, archive: Path) -> None:
    """Write the image as one tar file in the OCI layout, for `ctr images import`."""
    layers = [(path, sha256(path), path.stat().st_size) for path in image.layers]
    config = _json(
        {
            "created": CREATED,
            "architecture": MACHINES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {
                "Env": [f"{name}={value}" for name, value in image.environment.items()],
                "Cmd": list(image.command),
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each[1]}" for each in layers]},
            "history": [{"created": CREATED, "created_by": path.name} for path, _, _ in layers],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{TYPES}.manifest.v1+json",
            "config": _described(f"{TYPES}.config.v1+json", config),
            "layers": [
                {"mediaType": f"{TYPES}.layer.v1.tar", "digest": f"sha256:{digest}", "size": size}
                for _, digest, size in layers
            ],
        }
    )
    name = {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name}
    entry = {**_described(f"{TYPES}.manifest.v1+json", manifest), "annotations": name}
    with tarfile.open(archive, "w") as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json({"schemaVersion": 2, "manifests": [entry]}))
        for blob in (config, manifest):
            _add(tar, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)
        for path, digest, _ in layers:
            tar.add(path, f"blobs/sha256/{digest}")


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _described(kind: str, blob: bytes) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
    return {"mediaType": kind, "digest": digest, "size": len(blob)}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
