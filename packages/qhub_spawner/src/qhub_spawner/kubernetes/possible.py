"""Which profiles can become pods at all, as far as that is known before anybody asks for one."""

from __future__ import annotations

from collections.abc import Iterable

from kubespawner import KubeSpawner

from qhub_spawner.errors import Problem
from qhub_spawner.kubespawner_traits import instead
from qhub_spawner.profiles import Profile


def problems_of(profiles: Iterable[Profile], *, spot_pool: bool) -> list[Problem]:
    """Return what is wrong with each profile that may become a pod.

    Args:
        profiles: All of them, in the order written.
        spot_pool: Whether it is configured how to reach the nodes that may be taken away.
    """
    traits = KubeSpawner.class_traits(config=True)
    problems = []
    for index, profile in enumerate(profiles):
        where = f"profiles[{index}] ({profile.slug})"
        block = profile.kubernetes
        if block is None:
            continue
        if profile.nodes > 1:
            problems.append(
                Problem(f"{where}.nodes", str(profile.nodes), "a pod has one node", "1")
            )
        if block.spot and not spot_pool:
            accepted = "false, or set c.KubernetesBackend.spot_pool"
            problems.append(
                Problem(f"{where}.kubernetes.spot", "true", "there is no spot pool", accepted)
            )
        place, message = f"{where}.kubernetes.kubespawner", "KubeSpawner has no such trait"
        problems += [
            Problem(place, trait, message, "one of c.KubeSpawner's")
            for trait in block.kubespawner
            if trait not in traits
        ]
    return problems


def without_effect(profiles: Iterable[Profile]) -> list[str]:
    """Return which traits of profiles have no effect there, and what to do, a line for each."""
    return [
        f"profiles[{index}] ({profile.slug}).kubernetes.kubespawner: {trait} has no effect in a "
        f"profile: {instead(trait)}"
        for index, profile in enumerate(profiles)
        for trait in (profile.kubernetes.kubespawner if profile.kubernetes else ())
        if instead(trait)
    ]


def with_any_image(profiles: Iterable[Profile]) -> list[str]:
    """Return which profiles let people write an image, where it may add groups, a line for each."""
    return [
        f"profiles[{index}] ({profile.slug}).options.{name}.free: people may write an image, and "
        "an image gives its person the groups of its own /etc/group; only "
        "c.KubernetesBackend.supplemental_groups_policy = 'Strict' keeps it from that"
        for index, profile in enumerate(profiles)
        for name, option in profile.options.items()
        if option.free is not None and option.free.sets == "kubernetes.image"
    ]
