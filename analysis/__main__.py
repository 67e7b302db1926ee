"""`python -m analysis report RUN_DIR`: judge a run and write its report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis import report
from analysis.run import RunError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. A run that failed is no error of the report's."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Results of experiments.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("report", help="judge a run by its captures and write its HTML report")
    command.add_argument("run_dir", type=Path, help="e.g. results/handover/latest")
    options = parser.parse_args(arguments)
    try:
        written = report.write(options.run_dir)
    except (RunError, OSError) as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 2
    print(f"{written.figures['verdict']}: {written.figures['reason']}")
    print(written.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
