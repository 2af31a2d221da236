"""Ask the public list of vulnerabilities about every version in constraints.txt.

Ends with 1 when there is one. Where the list cannot be reached, that is said and is no failure: a
machine without the way out tells nothing about our versions.
"""

from __future__ import annotations

import json
import subprocess
import sys

SECONDS = 300


def main() -> int:
    """Run pip-audit and say in a line what it found."""
    command = [sys.executable, "-m", "pip_audit", "--requirement=constraints.txt", "--no-deps"]
    command += ["--disable-pip", "--progress-spinner=off", "--format=json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        found = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print("pip-audit: the list of vulnerabilities could not be reached; nothing was audited")
        return 0
    asked = [each for each in found if "skip_reason" not in each]
    weak = [each for each in asked if each["vulns"]]
    for each in weak:
        names = ", ".join(vulnerability["id"] for vulnerability in each["vulns"])
        print(f"pip-audit: {each['name']} {each['version']}: {names}")
    print(f"pip-audit: {len(asked)} of {len(found)} versions audited, {len(weak)} vulnerable")
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main())
