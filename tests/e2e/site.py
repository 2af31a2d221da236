"""The site that the end-to-end tests look at: profiles as an administrator would write them."""

from __future__ import annotations

from typing import Any

from tests.systems.slurm_hub import SlurmHub

PROFILES = """
c.QHubSpawner.profiles = [
    {
        "slug": "general",
        "display_name": "General",
        "description": "Notebooks and everyday analysis, on nodes shared with others.",
        "default": True,
        "cpu": 1,
        "memory": "600 MiB",
        "walltime": "1h",
        "slurm": {"partition": "general"},
        "options": {
            "size": {
                "display_name": "Size",
                "choices": {
                    "small": {"display_name": "Small"},
                    "large": {
                        "display_name": "Large",
                        "overrides": {"cpu": 2, "memory": "2 GiB"},
                    },
                },
            },
            "time": {
                "display_name": "Time limit",
                "choices": {
                    "hour": {"display_name": "One hour", "overrides": {"walltime": "1h"}},
                    "day": {"display_name": "A working day", "overrides": {"walltime": "8h"}},
                },
                "free": {
                    "sets": "walltime", "minimum": "10 min", "maximum": "8h", "example": "3 h",
                },
            },
        },
    },
    {
        "slug": "highmem",
        "display_name": "High memory",
        "description": "For tables and graphs that must be in memory all at once.",
        "cpu": 1,
        "memory": "8 GiB",
        "walltime": "2h",
        "slurm": {"partition": "highmem", "account": "research"},
        "options": {
            "memory": {
                "display_name": "Memory",
                "choices": {
                    "half": {"display_name": "Half a node", "overrides": {"memory": "8 GiB"}},
                    "most": {"display_name": "Most of it", "overrides": {"memory": "15 GiB"}},
                },
                "free": {
                    "sets": "memory", "minimum": "1 GiB", "maximum": "15 GiB", "example": "10 GiB",
                },
            },
        },
    },
    {
        "slug": "gpu",
        "display_name": "GPU",
        "description": "Training and inference on one or two A100.",
        "cpu": 1,
        "memory": "2 GiB",
        "gpu": {"count": 1, "type": "a100"},
        "walltime": "2h",
        "slurm": {"partition": "gpu", "account": "research", "qos": "gpu"},
        "options": {
            "gpus": {
                "display_name": "GPUs",
                "choices": {
                    "one": {"display_name": "One"},
                    "two": {"display_name": "Two", "overrides": {"gpu": 2, "cpu": 2}},
                },
            },
        },
    },
    {
        "slug": "long",
        "display_name": "Long runs",
        "description": "Up to eight hours, for projects with the QOS for it.",
        "cpu": 2,
        "memory": "2 GiB",
        "walltime": "8h",
        "slurm": {"partition": "general", "qos": "long"},
    },
    {
        "slug": "course",
        "display_name": "Course",
        "description": "A whole afternoon of exercises.",
        "access": {"users": ["bob"]},
        "cpu": 1,
        "memory": "600 MiB",
        "walltime": "4h",
        "slurm": {"partition": "general"},
    },
    {
        "slug": "module",
        "display_name": "Missing module",
        "description": "Fails in the job, as a module that is not installed does.",
        "access": {"users": ["bob"]},
        "cpu": 1,
        "memory": "600 MiB",
        "walltime": "1h",
        "slurm": {"partition": "general", "prologue": "exit 3"},
    },
    {
        "slug": "giant",
        "display_name": "Giant",
        "description": "More cores than a node has, which Slurm refuses.",
        "access": {"users": ["bob"]},
        "cpu": 64,
        "memory": "600 MiB",
        "walltime": "1h",
        "slurm": {"partition": "general"},
    },
]
"""

CONFIG = """
c.SlurmBackend.view_interval = 1
c.SlurmBackend.poll_rest = 3
c.SlurmBackend.poll_starting = 0.5
"""


def availability(hub: SlurmHub, slug: str) -> dict[str, Any]:
    """What the hub says is free for a profile, to alice."""
    profiles = hub.api("GET", "users/alice/qhub/profiles").json["profiles"]
    (found,) = (one["availability"] for one in profiles if one["slug"] == slug)
    figures: dict[str, Any] = found
    return figures
