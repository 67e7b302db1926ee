"""`mtcp watch`: what this host's agent does, as it does it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from mtcp.address import Endpoint
from mtcp.agent import local
from mtcp.errors import MtcpError

Event = dict[str, Any]


def events(seconds: float | None) -> Iterator[Event]:
    """The agent's events from now on, each with `host` and `time_ns` (since the epoch); for ever, or so many seconds.

    MtcpError when there is no agent, when it refuses, and when it ends.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    with local.connect() as sock:
        local.send(sock, {"op": "watch"})
        try:
            answer, _ = local.receive(sock)
            if "error" in answer:
                raise MtcpError(str(answer["error"]))
            to_epoch = time.time_ns() - time.monotonic_ns()
            while deadline is None or (left := deadline - time.monotonic()) > 0:
                sock.settimeout(None if deadline is None else left)
                event, _ = local.receive(sock)
                yield {"time_ns": event["monotonic_ns"] + to_epoch, "host": answer["host"], **event}
        except TimeoutError:
            return
        except (EOFError, ConnectionResetError):
            raise MtcpError("the agent has ended, or this did not read its events; see its log") from None


def line(event: Event) -> str:
    """For people: time, host, event, connection, attempt, details."""
    rest = dict(event)
    nanoseconds = rest.pop("time_ns")
    rest.pop("monotonic_ns", None)
    clock = f"{datetime.fromtimestamp(nanoseconds // 10**9):%H:%M:%S}.{nanoseconds % 10**9 // 1000:06d}"
    words = [clock, f"{rest.pop('host'):8}", f"{rest.pop('event'):18}"]
    if "connection" in rest:
        words.append(f"{_text(rest.pop('connection')):21}")
    if rest.get("attempt") is not None:
        words.append(f"attempt {rest.pop('attempt')}")
    decided, committed = rest.pop("decided_ns", None), rest.pop("committed_ns", None)
    if decided and committed:
        rest["ms"] = f"{(committed - decided) / 1e6:.2f}"
    words += [f"{name}={_text(value)}" for name, value in rest.items() if value != ""]
    return " ".join(words).rstrip()


def _text(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int):
        return str(Endpoint(*value))
    return str(value)


def watch(seconds: float | None, as_json: bool) -> None:
    """Print events until Ctrl-C, for `seconds`, or until nobody reads what is printed."""
    try:
        for event in events(seconds):
            print(json.dumps(event) if as_json else line(event), flush=True)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's end complains
