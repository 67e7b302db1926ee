"""The command `testbed`."""

from __future__ import annotations

import argparse
import subprocess
import sys

from testbed import cgroups, doctor, sandbox


def main(arguments: list[str] | None = None) -> int:
    """Run the command line `arguments` (default: the process's); returns the exit code."""
    parser = argparse.ArgumentParser(prog="testbed", description="Look after the M-TCP testbed.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("doctor", help="say whether this machine can run the testbed")
    check.add_argument("--json", action="store_true", help="print machine-readable JSON")
    run = commands.add_parser("run", help="run a command in a sandbox of its own")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="the command, with its arguments")
    commands.add_parser("clean", help="remove what killed experiments left behind")
    options = parser.parse_args(arguments)
    if options.command == "doctor":
        return doctor.main(as_json=options.json)
    if options.command == "run":
        if not options.words:
            parser.error("run what?")
        sandbox.enter()
        return subprocess.call(options.words)
    try:
        for path in cgroups.remove_stale(cgroups.mount_point()):
            print(f"removed {path}")
    except cgroups.CgroupError:
        pass  # nothing can be left then
    return 0


if __name__ == "__main__":
    sys.exit(main())
