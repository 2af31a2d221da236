"""KubeSpawner profile lists in the manner of public hubs, made up for these tests.

Each comes with user_options as people of such a hub send them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

MINIMAL: list[dict[str, Any]] = [
    {"display_name": "Small & quick"},
    {
        "display_name": "Large: 8 cores, 16 GB",
        "description": "For the <b>last</b> week of term.",
        "kubespawner_override": {"cpu_limit": 8, "mem_limit": "16G"},
    },
]

# A research hub: shared nodes in fractions, images to choose or to bring, teams.
RESEARCH: list[dict[str, Any]] = [
    {
        "display_name": "Shared CPU",
        "slug": "cpu",
        "description": "A share of a node.\nUp to 64 GB & <code>16</code> cores.",
        "default": True,
        "allowed_groups": ["tundra-lab:everyone", "tundra-lab:guests"],
        "kubespawner_override": {"image_pull_policy": "Always", "mem_guarantee": "1G"},
        "profile_options": {
            "image": {
                "display_name": "Image",
                "unlisted_choice": {
                    "enabled": True,
                    "display_name": "Custom image",
                    "display_name_in_choices": "Other...",
                    "validation_regex": "^.+:.+$",
                    "validation_message": "Must be an image with a tag, e.g. quay.io/lab/ice:2026",
                    "kubespawner_override": {"image": "{value}"},
                },
                "choices": {
                    "ice_core": {
                        "display_name": "Ice cores",
                        "default": True,
                        "kubespawner_override": {
                            "image": "quay.io/tundra/ice:4a1b2c",
                            "default_url": "/lab",
                        },
                    },
                    "rocker": {
                        "display_name": "RStudio",
                        "slug": "rocker",
                        "kubespawner_override": {
                            "image": "quay.io/tundra/r-geo:2026-10",
                            "default_url": "/rstudio",
                            "working_dir": "/home/rstudio",
                        },
                    },
                    "nightly": {
                        "display_name": "Nightly",
                        "allowed_groups": ["tundra-lab:dev"],
                        "kubespawner_override": {"image": "quay.io/tundra/ice:nightly"},
                    },
                },
            },
            "resource_allocation": {
                "display_name": "Resource allocation",
                "choices": {
                    "mem_1_9": {
                        "display_name": "1.9 GB, up to 3.75 CPUs",
                        "kubespawner_override": {
                            "mem_guarantee": 1991244775,
                            "mem_limit": 1991244775,
                            "cpu_guarantee": 0.2328125,
                            "cpu_limit": 3.75,
                            "node_selector": {"node.kubernetes.io/instance-type": "r5.xlarge"},
                        },
                        "default": True,
                    },
                    "mem_7_4": {
                        "display_name": "7.4 GB, up to 3.75 CPUs",
                        "kubespawner_override": {
                            "mem_guarantee": "7.451G",
                            "mem_limit": "7.451G",
                            "cpu_guarantee": 0.93125,
                            "cpu_limit": 3.75,
                            "node_selector": {"node.kubernetes.io/instance-type": "r5.xlarge"},
                        },
                    },
                    "mem_60_6": {
                        "display_name": "60.6 GB, up to 15.7 CPUs",
                        "kubespawner_override": {
                            "mem_guarantee": 65094448840,
                            "mem_limit": 65094448840,
                            "cpu_guarantee": 7.86,
                            "cpu_limit": 15.72,
                            "node_selector": {"node.kubernetes.io/instance-type": "r5.4xlarge"},
                        },
                    },
                },
            },
        },
    },
    {
        "display_name": "GPU – NVIDIA T4",
        "description": "16 GB of GPU memory",
        "allowed_groups": ["tundra-lab:gpu"],
        "kubespawner_override": {
            "environment": {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"},
            "mem_limit": None,
            "mem_guarantee": "14G",
            "node_selector": {"node.kubernetes.io/instance-type": "g4dn.xlarge"},
            "extra_resource_limits": {"nvidia.com/gpu": "1"},
        },
        "profile_options": {
            "image": {
                "display_name": "Image",
                "choices": {
                    "tensorflow": {
                        "display_name": "TensorFlow",
                        "kubespawner_override": {"image": "quay.io/tundra/tf:2026"},
                    },
                    "pytorch": {
                        "display_name": "PyTorch",
                        "default": True,
                        "kubespawner_override": {"image": "quay.io/tundra/torch:2026"},
                    },
                },
            }
        },
    },
]
RESEARCH_GROUPS = frozenset(
    {"tundra-lab:everyone", "tundra-lab:gpu", "tundra-lab:dev", "tundra-lab:guests"}
)

CHART = """\
# values of a zero-to-jupyterhub chart
jupyterhub:
  hub:
    db: {type: pvc}
  singleuser:
    memory: {limit: 2G, guarantee: 512M}
    cpu: {guarantee: 0.1}
    profileList:
      - display_name: "Minimal environment"
        description: "To avoid too much bells and whistles: Python."
        default: true
      - display_name: "Datascience environment"
        description: >
          If you want the additional bells and whistles:
          Python, R, and Julia.
        kubespawner_override:
          image: quay.io/example/datascience-notebook:2343e33dec46
      - display_name: "Learning Data Science"
        description: "Datascience Environment with Sample Notebooks"
        kubespawner_override:
          image: quay.io/example/datascience-notebook:2343e33dec46
          mem_limit: 4G
          lifecycle_hooks:
            postStart:
              exec: {command: ["sh", "-c", "gitpuller https://example.org/course main materials"]}
      - display_name: "Spark"
        kubespawner_override:
          image_pull_secrets: [{name: regcred}]
          extra_labels: {team: spark}
          extra_containers:
            - {name: ui, image: "example.org/ui:1"}
"""

NEBARI = """\
project_name: reef
profiles:
  jupyterlab:
    - display_name: Small Instance
      description: Stable environment with 2 cpu / 8 GB ram
      default: true
      access: all
      kubespawner_override:
        cpu_limit: 2
        cpu_guarantee: 1.5
        mem_limit: 8G
        mem_guarantee: 5G
        image: quay.io/example/jupyterlab:2026.1
    - display_name: Medium Instance
      access: yaml
      groups: [developer]
      users: [nora]
      kubespawner_override:
        cpu_limit: 4
        cpu_guarantee: 3
        mem_limit: 16G
        mem_guarantee: 10G
        image: quay.io/example/jupyterlab:2026.1
        node_selector: {"cloud.google.com/gke-nodepool": "user-medium"}
    - display_name: GPU Instance
      access: keycloak
      kubespawner_override:
        cpu_limit: 4
        mem_limit: 16G
        extra_resource_limits: {nvidia.com/gpu: 1}
        environment: {NVIDIA_VISIBLE_DEVICES: all}
        extra_pod_config:
          volumes: [{name: dshm, emptyDir: {medium: Memory}}]
        extra_container_config:
          volumeMounts: [{name: dshm, mountPath: /dev/shm}]
  dask_worker:
    Small Worker: {worker_cores: 1}
"""


async def by_person(spawner: Any) -> list[dict[str, Any]]:
    """A list made for each person."""
    groups = {group.name for group in spawner.user.groups}
    found: list[dict[str, Any]] = [
        {"display_name": f"Server of {spawner.user.name}", "slug": "plain"},
    ]
    if "staff" in groups:
        found.append(
            {"display_name": "Staff", "kubespawner_override": {"cpu_limit": 4, "mem_limit": "8G"}}
        )
    return found


def person(name: str, *groups: str) -> SimpleNamespace:
    """A spawner as `by_person` looks at it."""
    named = [SimpleNamespace(name=group) for group in groups]
    return SimpleNamespace(user=SimpleNamespace(name=name, groups=named))


ACCELERATED: list[dict[str, Any]] = [
    {
        "display_name": "A100",
        "slug": "A100_pool",
        "allowed_users": ["mira"],
        "allowed_groups": ["ml"],
        "kubespawner_override": {
            "cpu_limit": 8,
            "mem_limit": "64G",
            "extra_resource_limits": {"nvidia.com/gpu": "1", "ephemeral-storage": "100Gi"},
            "extra_resource_guarantees": {"nvidia.com/gpu": "1"},
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            ],
            "node_selector": {"pool": "a100"},
            "priority_class_name": "gpu-high",
            "scheduler_name": "bin-packer",
            "service_account": "gpu-user",
            "extra_pod_config": {"runtimeClassName": "nvidia", "hostIPC": True},
            "extra_annotations": {"example.org/cost-centre": "ml", "who": "{username}"},
            "volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": "{pvc_name}"}}],
            "volume_mounts": [{"name": "home", "mountPath": "/home/jovyan"}],
        },
        "profile_options": {
            "gpus": {
                "display_name": "GPUs",
                "choices": {
                    "1": {"display_name": "One"},
                    "2": {
                        "display_name": "Two",
                        "kubespawner_override": {
                            "extra_resource_limits": {"nvidia.com/gpu": "2"},
                            "extra_resource_guarantees": {"nvidia.com/gpu": "2"},
                            "mem_limit": "128G",
                        },
                    },
                    "none": {
                        "display_name": "None today",
                        "kubespawner_override": {
                            "extra_resource_limits": {"nvidia.com/gpu": 0},
                            "extra_resource_guarantees": {"nvidia.com/gpu": 0},
                            "tolerations": [],
                        },
                    },
                },
            },
            "memory": {
                "display_name": "Memory",
                "choices": {"usual": {"display_name": "As it is"}},
                "unlisted_choice": {
                    "enabled": True,
                    "display_name": "How much",
                    "validation_regex": "[1-9][0-9]?G$",
                    "kubespawner_override": {"mem_limit": "{value}"},
                },
            },
        },
    },
    {
        "display_name": "MI300",
        "kubespawner_override": {"extra_resource_limits": {"amd.com/gpu": 2}},
        "profile_options": {
            "sharing": {
                "display_name": "Sharing",
                "choices": {
                    "alone": {"display_name": "Alone"},
                    "mixed": {
                        "display_name": "With the others",
                        "kubespawner_override": {
                            "node_selector": {"shared": "true"},
                            "extra_resource_limits": {"amd.com/gpu": 1},
                        },
                    },
                },
            }
        },
    },
]

# KubeSpawner sorts these by key.
BY_KEY: dict[str, dict[str, Any]] = {
    "20-teaching": {
        "display_name": "Teaching",
        "slug": "teach",
        "kubespawner_override": {
            "volumes": {"10-data": {"name": "data", "emptyDir": {}}},
            "volume_mounts": {"10-data": {"name": "data", "mountPath": "/data"}},
            "tolerations": {"a": {"key": "teach", "operator": "Exists"}},
            "environment": {"COURSE": "bio-1", "HOME_OF": "{username}", "ODD": "{{braces}}"},
            "image_spec": "example.org/teach:1",
            "singleuser_uid": 1001,
        },
        "profile_options": {
            "term": {
                "display_name": "Term",
                "choices": {
                    "spring": {
                        "display_name": "Spring",
                        "kubespawner_override": {
                            "environment": {"COURSE": "bio-2", "EXTRA": "yes"},
                            "tolerations": {"b": {"key": "spring", "operator": "Exists"}},
                            "cpu_limit": None,
                        },
                    },
                    "autumn": {
                        "display_name": "Autumn",
                        "default": True,
                        "kubespawner_override": {
                            "environment": {"SEASON": "{username}s"},
                            "cpu_limit": 1,
                        },
                    },
                },
            },
            "pull": {
                "display_name": "Pull",
                "choices": {
                    "lazy": {"kubespawner_override": {"image_pull_policy": "IfNotPresent"}},
                    "eager": {"kubespawner_override": {"image_pull_policy": "Always"}},
                },
            },
        },
    },
    "10-plain": {
        "display_name": "Plain",
        "kubespawner_override": {"node_selector": {"gone": None}},
    },
}

# name: (list, groups of the person, user_options to try)
CASES: dict[str, tuple[Any, frozenset[str], list[dict[str, Any]]]] = {
    "minimal": (
        MINIMAL,
        frozenset(),
        [{}, {"profile": "small-quick"}, {"profile": "large-8-cores-16-gb"}],
    ),
    "research": (
        RESEARCH,
        RESEARCH_GROUPS,
        [
            {},
            {"profile": "cpu"},
            {"profile": "cpu", "image": "rocker"},
            {"profile": "cpu", "image": "nightly", "resource_allocation": "mem_60_6"},
            {"profile": "cpu", "resource_allocation": "mem_7_4"},
            {"profile": "cpu", "image--unlisted-choice": "quay.io/other/thing:1"},
            {
                "profile": "cpu",
                "image--unlisted-choice": "example.org/x:2",
                "resource_allocation": "mem_7_4",
            },
            {"profile": "gpu-nvidia-t4"},
            {"profile": "gpu-nvidia-t4", "image": "tensorflow"},
        ],
    ),
    "accelerated": (
        [{**ACCELERATED[0], "slug": "a100"}, ACCELERATED[1]],
        frozenset({"ml"}),
        [
            {},
            {"profile": "a100", "gpus": "2"},
            {"profile": "a100", "gpus": "none"},
            {"profile": "a100", "gpus": "2", "memory--unlisted-choice": "32G"},
            {"profile": "mi300"},
            {"profile": "mi300", "sharing": "mixed"},
        ],
    ),
    "by key": (
        BY_KEY,
        frozenset(),
        [
            {},
            {"profile": "plain"},
            {"profile": "teach"},
            {"profile": "teach", "term": "spring"},
            {"profile": "teach", "term": "spring", "pull": "eager"},
            {"profile": "teach", "term": "autumn", "pull": "lazy"},
        ],
    ),
}
