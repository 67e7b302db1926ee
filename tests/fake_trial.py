"""In place of experiments.trial: no network; what it does is the name of the trial's policy.

good        ends as it should          dead       writes nothing, and exits with 3
busy        the same, on a busy machine           hang       never ends, but goes when told to
broken      its testbed fails          stubborn   never ends, and has to be killed
first-bad   the first attempt at it is invalid, others are good
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("trial", type=json.loads)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--run")
    parser.add_argument("--parent")
    parser.add_argument("--limits")
    options = parser.parse_args()
    what = options.trial["policy"]
    if what == "dead":
        print("Traceback\nNoSuchThing: it is not there", file=sys.stderr)
        return 3
    first = not list(options.results.glob(f"runs/*/{options.trial['seed']}-{what}"))
    run = options.results / "runs" / options.run
    run.mkdir(parents=True)
    (run / f"{options.trial['seed']}-{what}").touch()
    metadata = {"verdict": "invalid", "reason": "the run did not end", "run_id": options.run, **options.trial}

    def write(verdict: str, reason: str) -> None:
        (run / "run.json").write_text(json.dumps(metadata | {"verdict": verdict, "reason": reason}))

    write("invalid", "the run did not end")
    if what in ("hang", "stubborn"):
        if what == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (run / "hangs").write_text(str(os.getpid()))
        time.sleep(600)
    if what == "broken" or (what == "first-bad" and first):
        write("invalid", "TestbedError: the link is not there")
        return 1
    if what == "busy":
        metadata["fidelity"] = {"exceeded": ["the machine stood still"], "void": ""}
    write(*("unsupported", "it cannot") if what == "unable" else ("invalid", "not judged yet"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
