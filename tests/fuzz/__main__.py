"""Fuzz the parsers with atheris (coverage-guided): `make fuzz ARGS="--seconds 3600"`, or some: `ARGS="option pool"`.

What each run has found worth keeping, and the input of each crash, is in results/fuzz/PARSER/.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import operator
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    print(f"{'parser':10} {'executions':>12} {'per second':>12} {'corpus':>8} {'peak MiB':>8}  result")
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
    count, rate, memory = (int((re.findall(rf"stat::{key}:\s+(\d+)", text) or ["0"])[-1]) for key in _STATISTICS)
    kept = len(list((RESULTS / name / "corpus").iterdir()))
    result = f"BROKEN: see {log}" if status else "ok"
    print(f"{name:10} {count:12,} {rate:12,} {kept:8,} {memory:8,}  {result}", flush=True)
    return int(status != 0)


_STATISTICS = ("number_of_executed_units", "average_exec_per_sec", "peak_rss_mb")


def _fuzz(name: str, seconds: int, runs: int) -> None:
    """Never returns."""
    import atheris
    from atheris import core_with_libfuzzer as core
    from atheris.version_dependent import CMP_OP_SHIFT_AMOUNT

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
    core._trace_cmp = tracing(core._trace_cmp, CMP_OP_SHIFT_AMOUNT)  # Fuzz takes it from there
    atheris.Fuzz()


_TRACED = (int, bytes, str)
_COMPARISONS = (operator.lt, operator.le, operator.eq, operator.ne, operator.gt, operator.ge)


def tracing(trace_cmp: Callable[..., Any], shift: int) -> Callable[..., Any]:
    """atheris' `trace_cmp`, only for operands that it tells libFuzzer of; the operator's number starts at bit `shift`.

    Why: atheris (3.0.0, 3.1.0) never releases the result. True and False cost nothing; a NumPy array is lost with every
    comparison in analysis.capture, a gigabyte in 700,000 executions.
    """

    def compare(left: Any, right: Any, operation: int, *where: Any) -> Any:
        if isinstance(left, _TRACED) and isinstance(right, _TRACED):
            return trace_cmp(left, right, operation, *where)
        return _COMPARISONS[operation >> shift](left, right)

    return compare


if __name__ == "__main__":
    sys.exit(main())
