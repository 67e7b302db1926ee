"""The command line of `python -m experiments`: what it asks for, and what it refuses before anything begins."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from experiments import asking, mechanisms
from experiments.__main__ import main
from experiments.plan import Request, plan


def asked(*words: str) -> list[Request]:
    parser = argparse.ArgumentParser()
    asking.add_options(parser)
    options = parser.parse_args(words)
    options.limits = getattr(options, "limits", None)
    return asking.requests(options)


def test_what_is_asked_for() -> None:
    (request,) = asked(
        *("congestion", "--set", "bw=10,20.5", "--set", "rtt=5", "--mechanism", "mtcp,tcp", "--mechanism", "tcp"),
        *("--policy", "throughput:fraction=0.4,patience=0.1", "--policy", "oracle", "--small"),
    )
    assert request.settings == {"bw": (10.0, 20.5), "rtt": (5.0,)}
    assert request.mechanisms == ("mtcp", "tcp")
    assert request.policies == ("throughput:fraction=0.4,patience=0.1", "oracle")
    assert request.small


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "no scenario 'nothing'; there are "),
        (["congestion", "--set", "colour=red"], "no factor 'colour'; there are after, "),
        (["congestion", "--set", "bw"], "not FACTOR=VALUE"),
        (["congestion", "--set", "bw="], "not FACTOR=VALUE"),
        (["congestion", "--set", "bw=fast"], "fast is no number"),
        (["congestion", "--set", "bw=10,-1"], "-1 is not a number from 0.1 on"),
        (["congestion", "--set", "rtt=nan"], "nan is not a number from 0 on"),
        (["congestion", "--set", "rtt=inf"], "inf is not a number"),
        (["crash", "--set", "dies=everything"], "everything is none of application, host"),
        (["congestion", "--mechanism", "mtcp,pigeon"], "no mechanism 'pigeon'; there are mtcp, "),
        (["congestion", "--policy", "hope"], "no policy 'hope'"),
        (["congestion", "--policy", "throughput:luck=1"], "luck"),
        (["congestion", "--reps", "0"], "--reps 0"),
        (["congestion", "--retries", "-1"], "--retries -1"),
        (["congestion", "--name", "../x"], "--name ../x"),
        (["congestion", "--name", "latest"], "--name latest"),
        (["congestion", "--limits", "/nonexistent"], "/nonexistent"),
    ],
)
def test_nonsense_is_one_line_and_nothing_begins(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(tmp_path.iterdir())


def test_the_list_has_all_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for word in ("congestion", "bandwidth of each service link [Mbit/s]", "mtcp", "throughput"):
        assert word in shown


@pytest.mark.parametrize("mechanism", ["reconnect", "quic"])
@pytest.mark.parametrize("policy", ["hints", "load", "attack"])
def test_who_has_no_hints_cannot_follow_them(mechanism: str, policy: str) -> None:
    (request,) = asked("congestion", "--small", "--mechanism", mechanism, "--policy", policy)
    (trial,) = plan([request], 1, 1)
    assert "ask their clients" in mechanisms.named(mechanism).unsupported(trial)
    assert not mechanisms.named("mtcp").unsupported(trial)
