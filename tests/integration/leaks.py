"""Where secrets could leak on this machine: the process list, and files that others can read."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.systems.processes import identity

# What somebody else may open of what has changed since the test began. Runs as that somebody.
WALK = """
import json, os, subprocess, sys
asked = json.load(sys.stdin)
needles = [text.encode() for text in asked["needles"]]
newer = "@" + str(asked["since"])
find = ["find", *asked["folders"], "-type", "f", "-newerct", newer, "-readable", "-print0"]
paths = subprocess.run(find, stdout=-1, stderr=-3).stdout.split(bytes(1))[:-1]
found = []
for path in paths:
    try:
        with open(path, "rb") as file:
            data = path + file.read(64 * 2**20)
    except OSError:
        continue
    found += [os.fsdecode(path) for text in needles if text in data]
print(json.dumps({"found": found, "seen": len(paths)}))
"""
# Notes every command line: of the processes that are new again and again, as they may exec, and of
# the others from time to time, as a process may rewrite its own. Quick, as sbatch ends quickly.
WATCH = """
import os, sys
os.nice(-10)
seen, old, rounds = set(), set(os.listdir("/proc")), 0
while os.path.exists(sys.argv[1]):
    names, rounds = os.listdir("/proc"), rounds + 1
    for name in names:
        if name.isdigit() and (rounds % 50 == 1 or name not in old):
            try:
                file = os.open("/proc/" + name + "/cmdline", os.O_RDONLY)
            except OSError:
                continue
            try:
                seen.add(os.read(file, 1 << 20))
            except OSError:
                pass
            os.close(file)
    if rounds % 50 == 0:
        old = set(names)
    if rounds == 1:
        os.write(1, b"begun" + bytes([10]))
os.write(1, bytes([10]).join(seen))
"""


class ProcessList:
    """Every command line that stood in the process list within the block, however shortly."""

    def __init__(self, folder: Path) -> None:
        """Watch nothing yet."""
        self.seen = b""
        self._go_on = folder / f"watching-{secrets.token_hex(4)}"

    def __enter__(self) -> Self:
        """Begin."""
        self._go_on.touch()
        self._watch = subprocess.Popen(
            ["/usr/bin/python3", "-I", "-c", WATCH, str(self._go_on)], stdout=subprocess.PIPE
        )
        assert self._watch.stdout is not None
        assert self._watch.stdout.readline() == b"begun\n"
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._go_on.unlink()
        self.seen, _none = self._watch.communicate(timeout=30)

    def lines_with(self, needles: Sequence[str]) -> list[str]:
        """Return the command lines that hold one of `needles`."""
        lines = self.seen.decode(errors="replace").split("\n")
        return [line for line in lines if any(needle in line for needle in needles)]

    def ran(self, program: str) -> bool:
        """Whether a program was seen at all."""
        return f"/{program}\0".encode() in self.seen


def files_with(
    needles: Sequence[str], folders: Sequence[str], since: float, person: str
) -> list[str]:
    """Return the files in `folders`, changed since, that a person can read and that hold a secret."""
    asked = {"needles": list(needles), "folders": list(folders), "since": since}
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", WALK],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        env={},
        **identity(person),  # type: ignore[call-overload]
    )
    answer = json.loads(done.stdout)
    assert answer["seen"] > 0
    return [str(path) for path in answer["found"]]


def texts_with(needles: Sequence[str], texts: Mapping[str, str | bytes]) -> set[str]:
    """Return the names of those texts that hold a secret."""
    found = set()
    for place, text in texts.items():
        data = text if isinstance(text, bytes) else text.encode()
        if any(needle.encode() in data for needle in needles):
            found.add(place)
    return found
