"""What Keycloak runs on: a Java of at least version 17, and Maven, which fetches it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from ..packages import install_packages, program

JRE = "default-jre-headless"  # 17 on Debian 12, 21 on Debian 13
MAVEN = "maven"
OLDEST = 17


def java() -> Path:
    """A Java that is new enough; Debian's is installed when there is none.

    Raises:
        SystemUnavailableError: None can be had; says why.
    """
    home = os.environ.get("JAVA_HOME")
    for found in (f"{home}/bin/java" if home else None, shutil.which("java")):
        if found and _version(found) >= OLDEST:
            return Path(found)
    install_packages([JRE], "Keycloak")
    return Path(program("java"))


def maven() -> Path:
    """Maven; Debian's is installed when there is none.

    Raises:
        SystemUnavailableError: None can be had; says why.
    """
    found = shutil.which("mvn")
    if found:
        return Path(found)
    install_packages([JRE, MAVEN], "Keycloak")
    return Path(program("mvn"))


def _version(program: str) -> int:
    """Its major version; 0 when it does not run."""
    try:
        done = subprocess.run(
            [program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return 0
    # openjdk version "17.0.15" 2025-04-15
    match = re.search(r'version "(\d+)', done.stderr + done.stdout)
    return int(match[1]) if match else 0
