"""Run the tests that need netem, Open vSwitch or cgroup v2 in a machine with a stock Debian kernel: `make test-vm`.

Any other command runs there after --: ARGS="--kernel linux-image-6.1.0-56-amd64 -- uname -a".
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from tests.vm import machine, packages

TESTS = ("tests/vm", "tests/root/test_host_limits.py")
"""The latter since there all controllers are in version 2 of control groups."""


def main() -> int:
    """The exit code of the command, 125 when there could be no machine."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__.splitlines()[0])
    parser.add_argument("--kernel", metavar="PACKAGE", help="Debian package (default: the newest that apt has)")
    parser.add_argument("--timeout", type=float, default=3600, metavar="S", help="seconds for all (default 3600)")
    parser.add_argument("command", nargs="*", help="what to run instead of the tests")
    options = parser.parse_args()
    # In one sandbox for all of them: it is slow there to start Python again and again.
    pytest = [sys.executable, "-m", "testbed.cli", "run", sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command = options.command or [*pytest, *TESTS]
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    start = time.monotonic()
    try:
        code = machine.run(packages.kernel(options.kernel), packages.open_vswitch(), command, options.timeout)
    except packages.VmError as error:
        print(f"test-vm: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130
    print(f"Exit code {code} after {time.monotonic() - start:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
