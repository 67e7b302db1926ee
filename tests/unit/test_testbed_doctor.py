"""What the doctor says, and how scripts that miss a tool end."""

from __future__ import annotations

import json

import pytest

from testbed import cgroups, cli, doctor
from testbed.pool import Server, pool_toml


def test_require_names_tool_and_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda *_args, **_options: None)
    with pytest.raises(SystemExit) as exit:
        doctor.require("mnexec")
    assert exit.value.code == "mnexec is not installed: make setup (or: apt-get install mininet)"


@pytest.mark.parametrize("missing", ["curl", None])
def test_json_and_exit_code(
    missing: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [
        doctor.Check("netem", False, False, "absent", "modprobe"),
        doctor.Check("curl", missing is None, True, ""),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: checks)
    assert cli.main(["doctor", "--json"]) == (1 if missing else 0)
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is (missing is None)
    assert report["checks"].keys() == {"netem", "curl"}
    assert report["checks"]["netem"] == {"ok": False, "required": False, "detail": "absent", "mend": "modprobe"}
    assert {"kernel", "python", "mininet"} <= report["versions"].keys()
    assert cli.main(["doctor"]) == (1 if missing else 0)
    assert ("MISSING" in capsys.readouterr().out) is (missing is not None)


def test_each_check_says_what_is_missing_means_and_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(doctor.shutil, "which", lambda *_args, **_options: None)
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 0)
    monkeypatch.setattr(doctor.os, "sched_setscheduler", refuse)
    monkeypatch.setattr(doctor.socket, "socket", refuse)
    monkeypatch.setattr(cgroups, "_mounted", lambda *_arguments: [])
    monkeypatch.setattr(doctor.platform, "release", lambda: "5.15.0-13-amd64")
    checks = {check.name: check for check in doctor.examine()}
    assert {name for name, check in checks.items() if check.required and not check.ok} >= {
        "kernel",
        "tcp_repair",
        "cgroup2",
        "bridge",
        "tbf",
        "tc",
    }
    absent = {"netem", "delay_line", "realtime", "cpu_controller", "mptcp", "openvswitch", "gcc"}
    assert {name for name, check in checks.items() if not check.required and not check.ok} >= absent
    for check in checks.values():
        assert check.detail and (check.ok or check.mend), check


def test_no_cgroup_v2_says_how_to_mount_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups.Path, "read_text", lambda _self: "tmpfs / tmpfs rw 0 0\n")
    with pytest.raises(cgroups.CgroupError, match="mount -t cgroup2"):
        cgroups.mount_point()


def test_pool_file() -> None:
    import tomllib

    text = pool_toml(
        [Server("s1", "10.0.0.1", "10.1.0.1:7000"), Server("s2", "10.0.0.2", "10.1.0.2:7000", ["fd00::2"])]
    )
    assert tomllib.loads(text)["server"] == [
        {"name": "s1", "service": ["10.0.0.1"], "control": "10.1.0.1:7000"},
        {"name": "s2", "service": ["10.0.0.2", "fd00::2"], "control": "10.1.0.2:7000"},
    ]
