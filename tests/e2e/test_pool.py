"""The pool of servers, as a user meets it: at Mininet's prompt."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.e2e import scripts


def test_a_download_goes_round_the_pool_while_it_runs() -> None:
    commands = (
        "client2 curl -sS http://s2/big | sha256sum > /run/mtcp/sum &",
        "client2 until mtcp ls | grep -q 10.0.0.4; do sleep 0.05; done",
        "client2 for s in s4 s1 s3 s2; do mtcp migrate --to $s; done; mtcp ls",
        "client2 wait; cat /run/mtcp/sum; sha256sum < /run/mtcp/files/big",
        "client mtcp ls",
    )
    options = ("--bw", "500", "--servers", "4", "--clients", "2")
    output = scripts.piped("pool", "\n".join(commands) + "\n", *options)
    assert re.findall(r"moved from \S+ to 10\.0\.0\.(\d):80", output) == ["4", "1", "3", "2"], output
    received, sent = re.findall(r"^[0-9a-f]{64}", output, re.MULTILINE)
    assert received == sent
    assert "no migratable connections" in output


@pytest.mark.parametrize("option", ["--servers=0", "--clients=100"])
def test_bad_numbers_of_hosts_are_one_line(option: str) -> None:
    run = subprocess.run([*scripts.command("pool"), option], capture_output=True, text=True, cwd=scripts.ROOT)
    assert run.returncode != 0
    assert "not between 1 and 99" in run.stderr.strip().splitlines()[-1]
