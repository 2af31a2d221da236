"""Take the pictures of the README: the real pages of a hub on a real Slurm and a real Kubernetes.

Both have some work on them. As root on Debian, with the packages of the tests:
``python docs/images/take.py``
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.e2e import browsing, site  # noqa: E402 - from the checkout
from tests.systems.both_hub import BothHub  # noqa: E402
from tests.systems.kubernetes import USER_IMAGE, KubernetesSystem  # noqa: E402
from tests.systems.processes import wait_until  # noqa: E402
from tests.systems.slurm import SlurmSystem  # noqa: E402

PROFILES = f"""
c.QHubSpawner.profiles = [
    {{
        "slug": "notebook",
        "display_name": "Notebook",
        "description": "Everyday analysis.",
        "default": True,
        "cpu": 1,
        "memory": "600 MiB",
        "walltime": "8h",
        "policy": "soonest",
        "slurm": {{"partition": "general"}},
        "kubernetes": {{"cpu_request": "100m", "memory_request": "64 MiB"}},
    }},
    {{
        "slug": "general",
        "display_name": "General",
        "description": "A node of the cluster, shared with others.",
        "cpu": 1,
        "memory": "600 MiB",
        "walltime": "1h",
        "slurm": {{"partition": "general"}},
    }},
    {{
        "slug": "highmem",
        "display_name": "High memory",
        "description": "For tables and graphs that must be in memory all at once.",
        "cpu": 1,
        "memory": "8 GiB",
        "walltime": "2h",
        "slurm": {{"partition": "highmem", "account": "research"}},
    }},
    {{
        "slug": "gpu",
        "display_name": "GPU",
        "description": "Training and inference on one or two A100.",
        "cpu": 1,
        "memory": "2 GiB",
        "gpu": {{"count": 1, "type": "a100"}},
        "walltime": "2h",
        "slurm": {{"partition": "gpu", "account": "research", "qos": "gpu"}},
    }},
    {{
        "slug": "container",
        "display_name": "Container",
        "description": "Software in an image, one of ours or your own.",
        "cpu": 1,
        "memory": "1 GiB",
        "walltime": "4h",
        "options": {{
            "image": {{
                "display_name": "Image",
                "choices": {{
                    "standard": {{"display_name": "Standard", "description": "Python 3.13"}},
                    "r": {{"display_name": "R", "description": "R 4.5 and RStudio"}},
                }},
                "free": {{
                    "sets": "kubernetes.image",
                    "pattern": "registry[.]example[.]org/.+:.+",
                    "message": "an image of registry.example.org",
                    "example": "registry.example.org/mine:1",
                }},
            }},
            "memory": {{
                "display_name": "Memory",
                "choices": {{
                    "normal": {{"display_name": "Normal"}},
                    "double": {{"display_name": "Double", "overrides": {{"memory": "2 GiB"}}}},
                }},
            }},
        }},
        "kubernetes": {{
            "image": "{USER_IMAGE}", "cpu_request": "100m", "memory_request": "64 MiB",
        }},
    }},
    {{
        "slug": "cloud-gpu",
        "display_name": "Cloud GPU",
        "description": "An H100 that is added when it is asked for.",
        "cpu": 8,
        "memory": "64 GiB",
        "gpu": {{"count": 1, "type": "h100"}},
        "walltime": "4h",
        "kubernetes": {{"spot": True}},
    }},
]
c.KubernetesBackend.availability_from = "nodes"
c.KubernetesBackend.spot_pool = {{"node_selector": {{"pool": "spot"}}}}
c.KubernetesBackend.scalable_pools = [{{
    "labels": {{"pool": "spot", "nvidia.com/gpu.product": "h100"}},
    "max_nodes": 4,
    "allocatable": {{"cpu": "15", "memory": "110Gi", "nvidia.com/gpu": "1"}},
}}]
"""
WIDTH = 1280
SLEEP = "sleep 3600"
LARGEST_BYTES = 250_000


def occupy(slurm: SlurmSystem) -> None:
    """Put some work on the cluster: one node busy, high memory full, one GPU of two taken."""
    jobs = [
        slurm.sbatch("bob", SLEEP, "--time=55", "--mem=100M"),
        slurm.sbatch(
            "alice", SLEEP, "--partition=gpu", "--qos=gpu", "--gpus=1", "--time=90", "--mem=100M"
        ),
        slurm.sbatch(
            "alice", SLEEP, "--partition=highmem", "--exclusive", "--time=40", "--mem=100M"
        ),
    ]
    slurm.wait_until(lambda: {slurm.job_state(job) for job in jobs} == {"RUNNING"}, 60)
    slurm.sbatch("alice", SLEEP, "--partition=highmem", "--time=30", "--cpus-per-task=2")


def take(page: Page, name: str) -> None:
    """Take a picture of the whole page."""
    page.set_viewport_size({"width": WIDTH, "height": 200})
    height = 16 + page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.mouse.move(0, 0)
    path = HERE / f"{name}.png"
    page.screenshot(path=path, animations="disabled")
    size = path.stat().st_size
    print(f"{path}: {WIDTH} x {height}, {size // 1000} kB")
    if size > LARGEST_BYTES:
        sys.exit(f"{path} is larger than {LARGEST_BYTES // 1000} kB")


def visit(browser: Browser, hub: BothHub, name: str, scheme: str = "light") -> Page:
    """Open the hub as a person."""
    context = browser.new_context(
        viewport={"width": WIDTH, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        locale="en-GB",
        timezone_id="Europe/Berlin",
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    browsing.sign_in(page, hub.url, name)
    return page


def main() -> None:
    """Take all of them."""
    with SlurmSystem() as slurm, KubernetesSystem() as cluster, browsing.chromium() as browser:
        hub = BothHub(
            slurm, cluster, profiles=PROFILES, config=site.CONFIG, rights={"see_nodes": True}
        )
        try:
            hub.start()
            for name in ("alice", "bob"):
                hub.add_user(name)
            occupy(slurm)
            wait_until(
                lambda: site.availability(hub, "highmem")["start"]["source"] == "slurm",
                60,
                "Slurm's own estimate",
                poll_seconds=0.5,
            )
            for scheme in ("light", "dark"):
                page = visit(browser, hub, "alice", scheme)
                browsing.choose(page, "container" if scheme == "light" else "notebook")
                take(page, "options-page" + ("-dark" if scheme == "dark" else ""))

            for _ in range(3):
                slurm.sbatch("bob", SLEEP, "--exclusive", "--time=55", "--mem=100M")
            page = visit(browser, hub, "alice")
            slurm.wait_until(lambda: site.availability(hub, "general")["nodes_idle"] == 0, 60)
            browsing.choose(page, "general")
            browsing.start(page)
            expect(page.locator("#progress-message")).to_contain_text(
                re.compile(r"ahead of it\. Slurm expects")
            )
            page.locator("#progress-details summary").click()
            take(page, "waiting")
        finally:
            hub.stop()


if __name__ == "__main__":
    main()
