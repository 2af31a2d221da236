"""The file of keys that cookies and sessions are sealed with; it is read anew when it changes."""

from __future__ import annotations

import stat
import time
from pathlib import Path

from cryptography.fernet import Fernet

from qhub_auth.errors import ConfigurationError
from qhub_auth.forward_auth.cookies import Sealer

__all__ = ["KeyFile"]

LOOK_SECONDS = 5.0


class KeyFile:
    """One key a line: the first seals, all of them open. Without a file, one key until the end.

    So a key is changed without anybody's noticing: put a new one before the others, and take the
    old one out when no session is older.
    """

    def __init__(self, path: str) -> None:
        """Read the file.

        Raises:
            ConfigurationError: It cannot be read, others can read it, or it holds no usable key.
        """
        self.path = path
        self._changed: tuple[int, int] | None = None
        self._looked = 0.0
        if path:
            self._sealer = self._read()
        else:
            self._sealer = Sealer([Fernet.generate_key().decode("ascii")])

    @property
    def sealer(self) -> Sealer:
        """What seals and opens now; the keys from before stay when the file has become unusable."""
        now = time.monotonic()
        if self.path and now - self._looked >= LOOK_SECONDS:
            try:
                self._sealer = self._read()
            except ConfigurationError:
                self._looked = now  # whoever writes it may not be done; it is looked at again
        return self._sealer

    def _read(self) -> Sealer:
        where = f"c.ForwardAuth.keys_file, {self.path}"
        path = Path(self.path)
        try:
            found = path.stat()
            changed = (found.st_mtime_ns, found.st_ino)
            if changed == self._changed:
                self._looked = time.monotonic()
                return self._sealer
            lines = path.read_text(encoding="ascii").split()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigurationError(f"{where}: {reason}") from error
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigurationError(
                f"{where}: others may read it (mode {stat.S_IMODE(found.st_mode):04o}); "
                "make it 0600"
            )
        try:
            sealer = Sealer(lines)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from error
        self._changed, self._looked = changed, time.monotonic()
        return sealer
