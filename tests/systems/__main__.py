"""`python -m tests.systems build`: fetch and build what the systems need and the cache lacks.

One after the other, so that a machine of two cores has one left for the tests that run meanwhile.
"""

from __future__ import annotations

import subprocess
import sys

SYSTEMS = ("keycloak", "kubernetes", "traefik")


def main() -> int:
    """Build all of them; 1 if one failed, which is told by the tests that miss it as well."""
    if sys.argv[1:] != ["build"]:
        print(__doc__, file=sys.stderr)
        return 2
    failed = []
    for system in SYSTEMS:
        command = [sys.executable, "-m", f"tests.systems.{system}", "build"]
        if subprocess.run(command, check=False).returncode:
            failed.append(system)
    if failed:
        print(f"Not to be had: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
