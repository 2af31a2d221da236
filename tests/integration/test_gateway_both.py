"""One gateway for clusters on the real Slurm and on the real Kubernetes, by profile."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_gateway_slurm import squeue
from tests.systems.dask_client import run_client
from tests.systems.gateway import GatewaySystem
from tests.systems.kubernetes_hub import pods_in
from tests.systems.processes import wait_until

pytestmark = pytest.mark.timeout(300)

ON_BOTH = """
answer = {}
for profile in ("job", "pod"):
    cluster = client.new_cluster(profile=profile, shutdown_on_close=False)
    cluster.scale(2)
    with cluster.get_client(set_as_default=False) as dask:
        dask.wait_for_workers(2, timeout=150)
        total = sum(dask.gather(dask.map(lambda x: x * x, range(20))))
        answer[profile] = [cluster.name, total]
"""
STOP = """
for name in values["names"]:
    client.stop_cluster(name)
"""


@pytest.fixture
def gateway(slurm: Any, kubernetes: Any) -> Iterator[GatewaySystem]:
    """A gateway on both."""
    folder = Path(tempfile.mkdtemp(prefix="qhub-gateway-"))
    folder.chmod(0o755)
    made = GatewaySystem(folder, slurm=slurm, kubernetes=kubernetes)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)
        slurm.run(["scancel", "--user=alice"])


def test_one_gateway_for_both(slurm: Any, kubernetes: Any, gateway: GatewaySystem) -> None:
    """The profile says where a cluster runs: its scheduler, its workers, its computations, its dashboard."""
    found = run_client(gateway, ON_BOTH, seconds=400)
    assert [total for _, total in found.values()] == [2470, 2470]
    assert len(squeue(slurm)) == 3
    pods = pods_in(kubernetes, gateway.namespace)
    assert len(pods) == 3
    labels = {pod["metadata"]["labels"]["qhub.dev/cluster"] for pod in pods.values()}
    assert labels == {found["pod"][0]}
    clusters = gateway.api("GET", "qhub/clusters", "alice")[1]["clusters"]
    assert {each["name"]: each["backend"] for each in clusters} == {
        found["job"][0]: "slurm",
        found["pod"][0]: "kubernetes",
    }
    # each scheduler is where its target says that it is, so that its dashboard is shown
    for name, _ in found.values():
        status, said = gateway.api("GET", f"qhub/clusters/{name}/dashboard", "alice")
        assert status == 200, said
        assert said["address"].startswith("http://")
    run_client(gateway, STOP, names=[name for name, _ in found.values()])
    wait_until(lambda: not squeue(slurm), 120, "the end of every job")
    left = lambda: pods_in(kubernetes, gateway.namespace)  # noqa: E731
    wait_until(lambda: not left(), 120, "the end of every pod")
