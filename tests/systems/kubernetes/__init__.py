"""A real one-node Kubernetes for tests, benchmarks and the demo. See README.md for by-hand use."""

from ..processes import NotReadyError, SystemUnavailableError
from .api import ApiError
from .clients import CommandFailedError
from .configuration import PAUSE_IMAGE
from .images import USER_IMAGE, USER_PREFIX
from .instances import sweep
from .system import KubernetesSystem

__all__ = [
    "PAUSE_IMAGE",
    "USER_IMAGE",
    "USER_PREFIX",
    "ApiError",
    "CommandFailedError",
    "KubernetesSystem",
    "NotReadyError",
    "SystemUnavailableError",
    "sweep",
]
