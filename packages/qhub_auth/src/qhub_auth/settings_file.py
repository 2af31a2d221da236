"""Reading the file of settings that the hub, the sync service and the commands share."""

from __future__ import annotations

from pathlib import Path

from traitlets.config.loader import Config, PyFileConfigLoader

from qhub_auth.errors import ConfigurationError, shown

__all__ = ["read_settings"]

_SHOWN_CHARACTERS = 200


def read_settings(path: Path) -> Config:
    """Return the settings of a file, and of those that it loads.

    traitlets' own way logs what fails and goes on with half of the settings. It takes a file that
    `load_subconfig` names and that is not there for an empty one, and so does this.

    Args:
        path: The file, in Python, as `jupyterhub_config.py` is.

    Raises:
        ConfigurationError: There is no such file, or it fails; the message names file and error.
    """
    if not path.is_file():
        msg = f"--config: there is no file {path}; it is the one with c.Keycloak and c.Identities"
        raise ConfigurationError(msg)
    loader = PyFileConfigLoader(path.name, path=str(path.parent.resolve()))
    try:
        config: Config = loader.load_config()
    except Exception as error:
        words = shown(str(error), _SHOWN_CHARACTERS)
        msg = f"--config: {path} fails: {type(error).__name__}: {words}"
        raise ConfigurationError(msg) from error
    return config
