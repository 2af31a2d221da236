"""Where the database of numbers is: one address for the hub, the service and the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from qhub_auth.errors import ConfigurationError

__all__ = ["DEFAULT_URL", "address_of", "file_of", "in_folder", "settings_folder"]

DEFAULT_URL = "sqlite:///qhub_identity.sqlite"


def file_of(url: URL) -> Path | None:
    """Return the file of an SQLite database; `None` for one in memory, and for servers."""
    name = url.database or ""
    if url.get_backend_name() != "sqlite" or name in {"", ":memory:"} or name.startswith("file:"):
        return None
    return Path(name)


def in_folder(url: str, folder: Path) -> URL | str:
    """Return an address whose file, if it is a relative path, is one in a folder.

    What is no address stays as it is: the database says what is wrong with it.

    Raises:
        ConfigurationError: There is none, but one where it would have been looked for from the
            folder that the process runs in: a second database would give the same numbers again.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return url
    path = file_of(parsed)
    if path is None or path.is_absolute():
        return parsed
    there, here = folder / path, Path.cwd() / path
    if not there.exists() and here.exists():
        msg = (
            f"c.Identities.database_url: {url} is a path relative to the folder of the settings "
            f"file, {folder}, in which there is no such file; but there is {here}. If that is the "
            f"database of numbers, end the hub and move it (with its -wal and -shm, if any) to "
            f"{there}, or write its whole path, sqlite:///{here}. Numbers must not be given twice"
        )
        raise ConfigurationError(msg)
    return parsed.set(database=str(there))


def settings_folder(of: Any, named: Path | None = None) -> Path:  # noqa: ANN401 - traitlets' own
    """Return the folder of the settings file.

    Args:
        of: Whoever has settings: the hub or the sync service above them knows the file.
        named: The file, where they are not above them.
    """
    while named is None and of is not None:
        found = getattr(of, "config_file", "")
        named = Path(found) if isinstance(found, str) and found else None
        of = getattr(of, "parent", None)
    return Path.cwd() if named is None else named.resolve().parent


def address_of(url: str, *, folder: Path, password_file: str) -> URL | str:
    """Return the address of the database.

    Args:
        url: As it is set.
        folder: That of the settings file, for a relative path.
        password_file: Where its password is; empty if it has none, or the address has it.

    Raises:
        ConfigurationError: The password cannot be read, or see :func:`in_folder`.
    """
    found = in_folder(url, folder)
    if not password_file or isinstance(found, str):
        return found
    try:
        password = Path(password_file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        msg = f"c.Identities.database_password_file cannot be read: {error}"
        raise ConfigurationError(msg) from error
    return found.set(password=password.rstrip("\r\n"))
