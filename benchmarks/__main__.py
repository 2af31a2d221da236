"""`python -m benchmarks NAME [--quick]`."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from tests.systems.processes import SystemUnavailableError

from . import (
    form,
    gateway_busy,
    gateway_first_result,
    gateway_scale,
    gateway_users,
    login,
    mixed,
    poll,
    spawn,
    spawn_kubernetes,
    sync,
    watch,
)

BENCHMARKS = {
    "poll": poll.run,
    "spawn": spawn.run,
    "form": form.run,
    "spawn-kubernetes": spawn_kubernetes.run,
    "watch": watch.run,
    "mixed": mixed.run,
    "sync": sync.run,
    "login": login.run,
    "gateway-scale": gateway_scale.run,
    "gateway-first-result": gateway_first_result.run,
    "gateway-busy": gateway_busy.run,
    "gateway-users": gateway_users.run,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark; 2 when this machine cannot."""
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("name", choices=BENCHMARKS, help="which one")
    parser.add_argument(
        "--quick", action="store_true", help="a small run that shows that it works, not how fast"
    )
    parser.add_argument("--runs", type=int, help="how often (spawns: 10, poll: 2, others: 1)")
    parsed = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        BENCHMARKS[parsed.name](quick=parsed.quick, runs=parsed.runs)
    except SystemUnavailableError as error:
        print(f"this machine cannot run the benchmark {parsed.name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was started has been ended", file=sys.stderr)
        return 130
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # so that everything that was started is ended on the way out
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
