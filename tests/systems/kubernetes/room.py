"""The namespaces that all daemons and pods of one instance share.

In a mount and a network namespace of their own, the kubelet's and containerd's mounts, the pods'
cables, kube-proxy's rules and the network's settings are nobody else's, and vanish with the last
process that is in there. One process (`sleep`) holds them. This machine sees one end of a virtual
cable, over which it reaches pods and services, and pods reach it.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..processes import SystemUnavailableError
from .configuration import KERNEL_SETTINGS
from .packages import program
from .places import Places

# what the daemons would otherwise write to, by its own folder in the run folder
OVERLAID = {
    "/run": "run",
    "/var/log": "var-log",
    "/var/lib/kubelet": "kubelet",
    "/var/lib/cni": "cni-cache",
}


def make_folders(places: Places) -> None:
    """Make what the script binds, and what it binds to.

    On this machine that leaves /var/lib/kubelet and /var/lib/cni as empty folders: to remove them
    would take the mounts of another instance away.
    """
    for seen, name in OVERLAID.items():
        (places.folder / name).mkdir(mode=0o755)
        Path(seen).mkdir(parents=True, exist_ok=True)
    for setting, value in KERNEL_SETTINGS.items():
        path = _stand_in(places, setting)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")


def holder(places: Places, layers: Sequence[tuple[Path, Path]]) -> list[str]:
    """The command that makes the namespaces and holds them; `ready` tells when they are made.

    Args:
        places: Paths and addresses.
        layers: Unpacked image layers, and where in the run folder they are to be seen.
    """
    lines = ["set -eu", "mount --make-rshared /"]
    for seen, name in OVERLAID.items():
        lines.append(f"mount --bind {_quote(places.folder / name)} {seen}")
    for setting in KERNEL_SETTINGS:
        # a file in the place of the machine's: the kubelet reads the value that it would set
        if Path("/proc/sys", setting).exists():
            lines.append(f"mount --bind {_quote(_stand_in(places, setting))} /proc/sys/{setting}")
    names = Path("/etc/resolv.conf").resolve()
    if names.is_file() and names.parts[1] != "run":
        # so that the pull of an image that is not here fails at once, as there is no way out
        empty = _quote(places.configuration / "resolv.conf")
        lines.append(f"mount --bind {empty} {_quote(names)}")
    for source, target in layers:
        lines.append(f"mount --bind {_quote(source)} {_quote(target)}")
        lines.append(f"mount -o remount,bind,ro {_quote(target)}")
    lines += [
        "ip link set lo up",
        f"ip address add {places.addresses.node}/32 dev lo",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        # every refusal is told: pods look names up in bursts, and would wait for those untold
        "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit",
        f"touch {_quote(ready_file(places))}",
        "exec sleep infinity",
    ]
    script = places.configuration / "room.sh"
    script.write_text("\n".join(lines) + "\n")
    unshare = [program("unshare"), "--net", "--mount", "--propagation", "slave"]
    return [*unshare, program("sh"), str(script)]


def ready_file(places: Places) -> Path:
    """Where the holder says that all is made."""
    return places.folder / "room-ready"


def enter(pid: int, argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` in the namespaces that this process holds, keeping its pid."""
    spaces = [f"--net=/proc/{pid}/ns/net", f"--mount=/proc/{pid}/ns/mnt"]
    return [program("nsenter"), *spaces, "--", *argv]


def connect(places: Places, pid: int) -> None:
    """Lay the cable between this machine and the namespaces that process `pid` holds.

    Raises:
        SystemUnavailableError: The kernel does not let us.
    """
    addresses = places.addresses
    link, far = addresses.link, "host0"
    disconnect(link)  # the slot is ours: it is of an instance that was killed, in another folder
    prefix = addresses.link_prefix
    inside = enter(pid, [])
    ip = program("ip")
    for command in (
        [ip, "link", "add", link, "type", "veth", "peer", "name", far, "netns", str(pid)],
        [*inside, ip, "address", "add", f"{addresses.gateway}/{prefix}", "dev", far],
        [*inside, ip, "link", "set", far, "up"],
        [*inside, ip, "route", "add", "default", "via", str(addresses.host)],
        [ip, "address", "add", f"{addresses.host}/{prefix}", "dev", link],
        [ip, "link", "set", link, "up"],
        [ip, "route", "add", str(addresses.pods), "via", str(addresses.gateway)],
        [ip, "route", "add", str(addresses.services), "via", str(addresses.gateway)],
    ):
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            message = f"`{shlex.join(command)}` failed ({done.returncode}): {done.stderr.strip()}"
            raise SystemUnavailableError(message)


def disconnect(link: str) -> None:
    """Take this machine's end of the cable away, if it is still there; its routes go with it."""
    if Path("/sys/class/net", link).exists():
        subprocess.run(
            [program("ip"), "link", "delete", link], capture_output=True, check=False, timeout=10
        )


def _stand_in(places: Places, setting: str) -> Path:
    return places.folder / "settings" / setting


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
