"""Fuzz the parsers with atheris (coverage-guided): `make fuzz ARGS="--seconds 3600"`, or some: `ARGS="option pool"`.

What each run has found worth keeping, and the input of each crash, is in results/fuzz/PARSER/.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path("results/fuzz")
NAMES = ("option", "stream", "body", "segment", "syn", "pool", "capture", "run", "local", "capsule")
SLOWEST, MOST_MEMORY = 10, 1024
"""Seconds and MiB that no single input may take; the clock's, so generous on a busy machine."""


def main() -> int:
    """Fuzz one after the other; 1 when an input broke a parser."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("parser", nargs="*", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--seconds", type=int, default=5, help="for each parser (default 5); 0: no limit")
    parser.add_argument("--runs", type=int, default=-1, help="executions of each parser, at most")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.parser) - set(NAMES):
        parser.error(f"no parser {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if importlib.util.find_spec("atheris") is None:
        print(
            "fuzz: atheris has no build for this Python; hypothesis tries the same in make test-unit", file=sys.stderr
        )
        return 1
    if options.child:
        _fuzz(options.parser[0], options.seconds, options.runs)
    print(f"{'parser':10} {'executions':>12} {'per second':>12} {'corpus':>8}  result")
    return max(_run(name, options.seconds, options.runs) for name in options.parser or NAMES)


def _run(name: str, seconds: int, runs: int) -> int:
    """One parser, in a process of its own: libFuzzer ends it."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--child", "--seconds", str(seconds), "--runs", str(runs)]
    log = RESULTS / name / "log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file, tempfile.TemporaryDirectory() as scratch:  # libFuzzer's end cleans nothing up
        environment = os.environ | {"TMPDIR": scratch}
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    text = log.read_text(errors="replace")
    count, rate = (int((re.findall(rf"stat::{key}:\s+(\d+)", text) or ["0"])[-1]) for key in _STATISTICS)
    kept = len(list((RESULTS / name / "corpus").iterdir()))
    print(f"{name:10} {count:12,} {rate:12,} {kept:8,}  {f'BROKEN: see {log}' if status else 'ok'}", flush=True)
    return int(status != 0)


_STATISTICS = ("number_of_executed_units", "average_exec_per_sec")


def _fuzz(name: str, seconds: int, runs: int) -> None:
    """Never returns."""
    import atheris

    with atheris.instrument_imports(include=["mtcp", "analysis", "tomllib"]):
        from tests.fuzz import agent, parsers
    target = {**parsers.TARGETS, **agent.TARGETS}[name]
    corpus = RESULTS / name / "corpus"
    corpus.mkdir(exist_ok=True)
    for seed in target.seeds():
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    limits = [f"-timeout={SLOWEST}", f"-rss_limit_mb={MOST_MEMORY}", f"-max_len={target.max_length}"]
    ends = [f"-max_total_time={seconds}", f"-runs={runs}", "-print_final_stats=1"]
    atheris.Setup(["fuzz", *limits, *ends, f"-artifact_prefix={RESULTS / name}/", str(corpus)], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
