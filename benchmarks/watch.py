"""`watch`: what it costs to know how 2,000 running and 50 starting servers are, on Kubernetes.

One real API server; pods on fake nodes; a real hub that takes them up from its database as a
restarted hub does, and then is asked to start 50 more, which no node has room for. Ours and stock
KubeSpawner in turn. Counted within a window of time: requests (the API server's audit log), bytes
on the wire between hub and API server in both directions (a forwarder that both go through), CPU
time of the hub (proc). The hub's own CPU time with as many servers and a spawner that does nothing
is the floor.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

from tests.systems.kubernetes import KubernetesSystem, sweep
from tests.systems.kubernetes.kwok import SELECTOR, TOLERATION
from tests.systems.kubernetes_hub import KubernetesHub
from tests.systems.processes import wait_until

from . import machine, report
from .activity import cpu_seconds
from .answering import AnsweringServer
from .audit import AuditLog
from .figures import per_minute, ratio
from .filled import Kept, fill
from .fleet import Standing, addresses_here, dismiss, muster, qhub_kept, stock_kept
from .rivals import StockKubernetesHub
from .wire import CountingForwarder

USERS = ("alice", "bob")
HUB_ID = "bench"
RATIO_GOAL, BYTES_GOAL, CPU_GOAL = 1 / 10, 1 / 10, 1 / 3
START_SECONDS = 900
POSTS_AT_ONCE = 8
PODS_OF_A_NODE = 110

# The same for both: people are known, starting does not block the request, and nothing gives up
# while thousands of servers are looked at one after the other.
_COMMON = f"""
c.Authenticator.allow_all = False
c.Authenticator.allowed_users = {set(USERS)!r}
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0}}
c.Spawner.http_timeout = 600
c.KubeSpawner.start_timeout = 7 * 24 * 3600
c.KubeSpawner.port = {{port}}
"""
_OURS = f"""
c.KubernetesBackend.hub_id = "{HUB_ID}"
c.KubernetesBackend.stuck_patience = 7 * 24 * 3600
c.QHubSpawner.profiles = [
    {{{{"slug": name, "display_name": name, "cpu": 1, "memory": "600 MiB", "walltime": "8h",
     "kubernetes": {{{{"cpu_request": "10m", "memory_request": "64 MiB",
                      "node_selector": selector, "tolerations": [{TOLERATION!r}]}}}}}}}}
    for name, selector in (("fake", {SELECTOR!r}), ("nowhere", {{{{"nowhere": "yes"}}}}))
]
""".replace("{{", "{").replace("}}", "}")
_STOCK = f"""
c.KubeSpawner.profile_list = [
    {{{{"slug": name, "display_name": name,
     "kubespawner_override": {{{{"node_selector": selector, "tolerations": [{TOLERATION!r}]}}}}}}}}
    for name, selector in (("fake", {SELECTOR!r}), ("nowhere", {{{{"nowhere": "yes"}}}}))
]
""".replace("{{", "{").replace("}}", "}")
