"""Which address a job may report: one of its own node, and no other machine's."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Sequence

from qhub_spawner.errors import SlurmError
from qhub_spawner.launch import AddressRefusedError
from qhub_spawner.slurm.capacity import expand_hosts
from qhub_spawner.slurm.jobs import Job
from qhub_spawner.slurm.views import Views


async def node_addresses(views: Views, names: Sequence[str]) -> dict[str, str]:
    """Return Slurm's address of each node, asking anew when one is not known.

    Raises:
        SlurmUnavailableError: It was asked, and did not answer.
    """
    machines = views.machines
    known = {node.name: node.address for node in machines.nodes} if machines else {}
    if any(name not in known for name in names):
        machines = await views.refresh_machines()
        known = {node.name: node.address for node in machines.nodes}
    return {name: known.get(name, name) for name in names}


async def check_host(host: str, job: Job, views: Views, networks: Collection[str]) -> None:
    """Refuse a host that is not one of the job's nodes.

    Without this, a person could make the hub's proxy forward their own route to any machine.

    Raises:
        AddressRefusedError: Names what would be taken.
    """
    try:
        nodes = await node_addresses(views, expand_hosts(job.node_list))
    except SlurmError as error:
        msg = f"the nodes of the job are not known now; report again ({error})"
        raise AddressRefusedError(msg, status_code=503) from error
    names = {*nodes, *nodes.values()}
    if host in names:
        return
    accepted = names | await _resolved(names)
    if host in accepted or await _otherwise_allowed(host, accepted, networks):
        return
    msg = (
        f"{ascii(host)[:64]} is not an address of the job's node "
        f"(expected one of: {', '.join(sorted(accepted))}, or one in server_networks)"
    )
    raise AddressRefusedError(msg, status_code=400)


async def _otherwise_allowed(host: str, accepted: set[str], networks: Collection[str]) -> bool:
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return False
    if any(literal in ipaddress.ip_network(network) for network in networks):
        return True
    if literal.is_unspecified or literal.is_multicast:
        return False
    # a node that is this machine itself is reached by any address of it
    own = literal.is_loopback or await asyncio.to_thread(_any_is_here, {str(literal)})
    return own and await asyncio.to_thread(_any_is_here, accepted)


async def _resolved(names: set[str]) -> set[str]:
    loop = asyncio.get_running_loop()
    found = set()
    for name in names:
        try:
            answers = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError:
            continue
        found |= {str(answer[4][0]) for answer in answers}
    return found


def _any_is_here(addresses: set[str]) -> bool:
    """Whether one of `addresses` is this machine's own, which then is the job's node."""
    for address in addresses:
        try:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((address, 0))
        except OSError:
            continue
        return True
    return False
