"""A small machine whose kernel has project quotas: Debian's own kernel in QEMU, for one script.

Kernels of containers and small virtual machines often come without quotas. This one boots in
seconds without hardware support, sees this machine's files read-only, mounts a new ext4 and a new
XFS with ``prjquota``, carries out steps and ends.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .packages import install_packages, program
from .processes import SystemUnavailableError, locked
from .userenv import cache_folder

PACKAGES = ("busybox-static", "cpio", "e2fsprogs", "kmod", "qemu-system-x86", "xfsprogs")
MODULES = (
    "crc32c_generic",
    "virtio_pci",
    "virtio_blk",
    "9pnet_virtio",
    "9p",
    "quota_v2",
    "ext4",
    "xfs",
)
FOLDERS = {"ext4": "/srv", "xfs": "/media"}
"""Where each file system is mounted in the machine: folders that every Debian has."""
SECONDS = 400
_MARK = "@qhub@"
# What is in the machine's first file system, and what it runs
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /usr/bin /sbin /proc /sys /dev /host
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in {modules}; do modprobe $module; done
mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144 host /host
mount -t proc proc /host/proc; mount -t devtmpfs dev /host/dev
mount -t ext4 -o prjquota /dev/vda /host{ext4}
mount -t xfs -o prjquota /dev/vdb /host{xfs}
chroot /host /usr/bin/python3 -IS $(cat /proc/cmdline | sed 's/.*qhub=//; s/ .*//')
poweroff -f
"""
# What the steps are carried out by, in the machine
INSIDE = """
import fcntl, json, os, struct, subprocess

def ask(command, requests):
    text = "".join(json.dumps(request) + "\\n" for request in requests)
    done = subprocess.run([command], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]

def write(path, uid, gids, size):
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setgroups(gids); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
        written, code = 0, 0
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
            while written < size:
                written += os.write(fd, b"x" * 65536)
            os.fsync(fd)
        except OSError as error:
            code = error.errno
        os.write(writing, json.dumps([written, code]).encode())
        os._exit(0)
    os.wait()
    return json.loads(os.read(reading, 100))

def project(path):
    fd = os.open(path, os.O_RDONLY)
    found = struct.unpack("=5I8x", fcntl.ioctl(fd, 0x801C581F, bytes(28)))
    os.close(fd)
    return [found[3], bool(found[0] & 0x200)]

def settings(root, document):
    os.chmod(root, 0o755)
    for name in ("homes", "shared"):
        os.mkdir(document[name]["root"], 0o755)
    with open(root + "/folders.json", "w") as file:
        json.dump(document, file)

for name, *arguments in json.load(open(__file__ + ".json")):
    print("MARK" + json.dumps(globals()[name](*arguments)), flush=True)
""".replace("MARK", _MARK)


def run(steps: Sequence[Sequence[Any]]) -> list[Any]:
    """Carry out steps in a new machine, with both file systems new; returns what each gave.

    Args:
        steps: Each the name of a function of `INSIDE`, and its arguments.

    Raises:
        SystemUnavailableError: The machine cannot be had, or did not carry out every step.
    """
    kernel, first = _built()
    with tempfile.TemporaryDirectory(prefix="qhub-quotas-", dir="/var/tmp") as name:
        folder = Path(name)
        script = folder / "inside.py"
        script.write_text(INSIDE)
        (folder / "inside.py.json").write_text(json.dumps(steps))
        images = {kind: folder / kind for kind in FOLDERS}
        for image in images.values():
            with image.open("wb") as file:
                os.truncate(file.fileno(), 400 * 2**20)
        _do("mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", images["ext4"])
        _do("mkfs.xfs", "-q", images["xfs"])
        drives = [f"-drive=file={image},if=virtio,format=raw" for image in images.values()]
        done = subprocess.run(
            [
                *(program("qemu-system-x86_64"), "-accel", "tcg", "-cpu", "max", "-m", "1024"),
                *("-nographic", "-no-reboot", "-nic", "none", "-kernel", kernel, "-initrd", first),
                *("-append", f"console=ttyS0 quiet panic=-1 qhub={script}"),
                *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
                *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
                *(word for drive in drives for word in drive.split("=", 1)),
            ],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=SECONDS, check=False,
        )  # fmt: skip
    lines = [line.partition(_MARK)[2] for line in done.stdout.splitlines() if _MARK in line]
    if len(lines) != len(steps):
        message = f"the machine with quotas did {len(lines)} of {len(steps)} steps: {done.stdout[-2000:]}{done.stderr[-500:]}"
        raise SystemUnavailableError(message)
    return [json.loads(line) for line in lines]


def _do(name: str, *arguments: Any) -> str:
    done = subprocess.run(
        [program(name), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        message = f"{name} ended with {done.returncode}: {done.stderr.strip()[-500:]}"
        raise SystemUnavailableError(message)
    return done.stdout


def _built() -> tuple[Path, Path]:
    """Return kernel and first file system, made once for each version of Debian's kernel."""
    install_packages(PACKAGES, "the machine with quotas")
    # Depends: linux-image-6.1.0-56-amd64
    found = [line.split()[1] for line in _do("apt-cache", "depends", "linux-image-amd64").splitlines()
             if line.strip().startswith("Depends: linux-image-")]  # fmt: skip
    if not found:
        message = "Debian has no linux-image-amd64 here"
        raise SystemUnavailableError(message)
    version = found[0].removeprefix("linux-image-")
    folder = cache_folder() / f"quota-machine-{version}"
    with locked(cache_folder() / "quota-machine.lock"):
        if not folder.is_dir():
            _build(version, folder)
    return folder / "vmlinuz", folder / "first.gz"


def _build(version: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="qhub-kernel-", dir="/var/tmp") as name:
        work, part = Path(name), folder.with_name(f"{folder.name}.part")
        done = subprocess.run(
            ["apt-get", "download", f"linux-image-{version}"],
            cwd=work, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            message = f"apt-get download linux-image-{version}: {done.stderr.strip()[-300:]}"
            raise SystemUnavailableError(message)
        _do("dpkg-deb", "-x", next(work.glob("*.deb")), work / "all")
        _do("depmod", "-b", work / "all", version)
        first = work / "first"
        (first / "bin").mkdir(parents=True)
        shutil.copy(program("busybox"), first / "bin")
        for module in MODULES:
            shown = _do("modprobe", "-d", work / "all", "-S", version, "--show-depends", module)
            for line in shown.splitlines():
                # insmod /…/lib/modules/6.1.0-56-amd64/kernel/fs/jbd2/jbd2.ko
                if line.startswith("insmod "):
                    source = Path(line.split()[1])
                    target = first / source.relative_to(work / "all")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, target)
        _do("depmod", "-b", first, version)
        (first / "init").write_text(INIT.format(modules=" ".join(MODULES), **FOLDERS))
        (first / "init").chmod(0o755)
        names = "\n".join(str(path.relative_to(first)) for path in first.rglob("*"))
        packed = subprocess.run(
            [program("cpio"), "--create", "--format=newc", "--quiet"],
            cwd=first, input=names.encode(), capture_output=True, check=True,
        )  # fmt: skip
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        (part / "first.gz").write_bytes(gzip.compress(packed.stdout, 1))
        shutil.copy(work / "all" / "boot" / f"vmlinuz-{version}", part / "vmlinuz")
        part.rename(folder)
