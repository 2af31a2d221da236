"""`python -m tests.systems.kubernetes`: the real Kubernetes test system by hand."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from ..by_hand import ByHand, main, say
from .binaries import MODULES
from .images import USER_IMAGE, USER_PREFIX, store
from .instances import instances, sweep
from .packages import install
from .system import KubernetesSystem


def _usage(system: KubernetesSystem) -> str:
    return f"""\
Kubernetes is ready after {system.seconds_to_ready:.1f} s. Ctrl-C ends it with all its pods.

  export KUBECONFIG={system.kubeconfig} PATH={system.places.kubernetes}:$PATH
  kubectl run web --image={USER_IMAGE} -- python3 -m http.server
  kubectl get pods -o wide        # this machine reaches pods' addresses

  API server      {system.api_url}
  this machine    {system.host_address}: where a hub listens, for pods to reach it
  in the image    {USER_PREFIX}/bin/jupyterhub-singleuser
  logs            {system.run_folder}/log
"""


def build() -> None:
    """Install and build all that a test would otherwise wait for; nothing is started."""
    install()
    for module in MODULES:
        _timed(module.name, module.ensure)
    _timed("images", store)


def _timed(name: str, make: Callable[[Callable[[str], None]], object]) -> None:
    began = time.monotonic()
    make(say)
    say(f"{name}: {time.monotonic() - began:.1f} s")


BY_HAND = ByHand(
    "Kubernetes",
    "tests.systems.kubernetes",
    lambda keep: KubernetesSystem(keep=keep, by_hand=True),
    _usage,
    instances,
    sweep,
    build,
)

if __name__ == "__main__":
    sys.exit(main(BY_HAND))
