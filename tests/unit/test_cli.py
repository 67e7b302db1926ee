"""The command line, with an agent that only answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mtcp import cli
from mtcp.agent import local
from mtcp.errors import MtcpError

pytestmark = pytest.mark.unit
MOVED = {
    "outcome": "moved",
    "connection": "10.0.0.9:50000",
    "from": "10.0.0.1:80",
    "to": "10.0.0.2:80",
    "decided_ns": 1_000_000,
    "committed_ns": 2_250_000,
    "reason": "",
}
ROW = {"connection": "10.0.0.9:50000", "server": "10.0.0.1:80", "state": "TRACKED", "moves": 2}


class Agent:
    """Answers what it was told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] | Exception = {}
        self.asked: dict[str, Any] = {}

    def request(self, message: dict[str, Any]) -> dict[str, Any]:
        self.asked = message
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    agent = Agent()
    monkeypatch.setattr(local, "request", agent.request)
    return agent


def test_ls(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answer = {"connections": [ROW | {"current": "10.0.0.2:80", "others": ["10.0.0.1:80"]}, ROW]}
    assert cli.main(["ls"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "connection"
    assert first.split() == ["10.0.0.9:50000", "10.0.0.1:80", "10.0.0.2:80", "TRACKED", "2", "10.0.0.1:80"]
    assert second.split() == ["10.0.0.9:50000", "10.0.0.1:80", "here", "TRACKED", "2"]
    assert head.index("state") == first.index("TRACKED") == second.index("TRACKED")


def test_ls_of_nothing(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answer = {"connections": []}
    assert cli.main(["ls"]) == 0
    assert capsys.readouterr().out == "no migratable connections\n"
    assert cli.main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_migrate(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answer = MOVED
    assert cli.main(["migrate", "50000", "--to", "10.0.0.2"]) == 0
    assert agent.asked == {"op": "migrate", "connection": "50000", "to": ["10.0.0.2"]}
    assert capsys.readouterr().out == "10.0.0.9:50000 moved from 10.0.0.1:80 to 10.0.0.2:80 in 1.25 ms\n"
    assert cli.main(["migrate", "--to", "10.0.0.2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == MOVED
    assert agent.asked["connection"] is None


def test_migrate_that_was_refused(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answer = MOVED | {"outcome": "kept", "reason": "BUSY: wait"}
    assert cli.main(["migrate", "--to", "10.0.0.2"]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", "mtcp: 10.0.0.9:50000 stays on 10.0.0.1:80: BUSY: wait\n")


def test_status(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answer = {"name": "s1", "interfaces": ["eth0"], "control": {"s2": True, "s3": False}, "listeners": {}}
    assert cli.main(["status"]) == 0
    text = "name: s1\ninterfaces: eth0\ncontrol: s2 connected, s3 not reached\nlisteners: none\n"
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MtcpError("no mtcp agent runs on this host"), "mtcp: no mtcp agent runs on this host\n"),
        (PermissionError(1, "Operation not permitted"), "mtcp: Operation not permitted: run as root\n"),
        (OSError(98, "Address already in use"), "mtcp: [Errno 98] Address already in use\n"),
    ],
)
def test_errors_are_one_line(agent: Agent, capsys: pytest.CaptureFixture[str], error: Exception, line: str) -> None:
    agent.answer = error
    assert cli.main(["ls"]) == 1
    assert capsys.readouterr() == ("", line)


def test_interrupted(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(message: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "request", interrupt)
    assert cli.main(["status"]) == 130


def test_unknown_server(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["migrate", "--to", "no.such.host.invalid"]) == 1
    assert "unknown server 'no.such.host.invalid'" in capsys.readouterr().err
    assert agent.asked == {}


def test_policy(agent: Agent, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    agent.answer = {"policy": "hints"}
    assert cli.main(["policy"]) == 0
    assert (agent.asked, capsys.readouterr().out) == ({"op": "policy", "policy": None}, "hints\n")
    file = tmp_path / "policies.toml"
    file.write_text("[throughput]\npatience = 2\n")
    assert cli.main(["policy", "throughput:fraction=0.3", "--policy-file", str(file)]) == 0
    assert agent.asked == {"op": "policy", "policy": "throughput:patience=2,fraction=0.3"}


def test_a_policy_that_there_is_not(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["policy", "fastest"]) == 1
    assert capsys.readouterr().err.startswith("mtcp: no policy 'fastest'; there are hints, ")
    assert agent.asked == {}


POOL = '[[server]]\nname = "s1"\nservice = "10.0.0.1"\ncontrol = "10.1.0.1:7000"\n'


def test_pool_init(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "two.toml"
    file.write_text(POOL)
    assert cli.main(["pool", "init", str(file)]) == 0
    assert {path.name for path in (tmp_path / "two.d").iterdir()} == {"ca.pem", "ca.key", "s1.pem", "s1.key"}
    assert "s1: key and certificate made" in capsys.readouterr().out
    assert cli.main(["pool", "init", str(file)]) == 0
    assert "s1: kept" in capsys.readouterr().out
    assert cli.main(["pool", "init", "--renew", str(file)]) == 0
    assert "s1: key and certificate made" in capsys.readouterr().out
    assert cli.main(["pool", "init", str(file), "--directory", str(tmp_path / "keys")]) == 0
    assert f"Agents look into {tmp_path / 'two.d'}" in capsys.readouterr().out
    assert (tmp_path / "keys" / "s1.key").exists()


def test_pool_init_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pool.toml"
    for text, line in ((None, "cannot read the pool file"), ("", "names no [[server]]")):
        if text is not None:
            file.write_text(text)
        assert cli.main(["pool", "init", str(file)]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("mtcp: ") and line in err and err.count("\n") == 1
    assert not (tmp_path / "pool.d").exists()


@pytest.mark.parametrize("arguments", [[], ["migrate"], ["fly"], ["agent"], ["pool"], ["pool", "init"]])
def test_bad_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
