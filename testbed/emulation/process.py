"""The delay line's process, seen from the network that it serves: started, asked, watched."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.emulation.conditions import Conditions, LinkError
from testbed.processes import PATIENCE

_PATIENCE = 10.0 * PATIENCE  # seconds for an answer
_LONGEST = 8 << 20  # bytes of an answer
_SO_SNDBUFFORCE = 32


class DelayLineProcess:
    """One for all links of a network. It ends with this process, whatever ends that."""

    def __init__(self, namespace: int, died: Callable[[str], None]) -> None:
        """`namespace`: descriptor of the network namespace where the ports are.

        `died` is called, with the reason and in a thread, when it ends without having been stopped.
        """
        self._died = died
        self._reason = ""
        self._lock = threading.Lock()
        self._stopping = False
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_PATIENCE)
        other.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _LONGEST)
        with other:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-m", "testbed.emulation.delay_line", str(namespace), str(other.fileno())],
                pass_fds=[namespace, other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                start_new_session=True,  # Ctrl-C is for the program whose network this is
            )
        self._watcher = threading.Thread(target=self._watch, name="delay line's watcher", daemon=True)
        self._watcher.start()

    def add(self, direction: str, source: str, to: str, seed: str, conditions: Conditions) -> None:
        """Carry packets from the interface `source` to the interface `to`; LinkError."""
        self._ask("add", direction=direction, to=to, seed=seed, **{"from": source}, **_of(conditions))

    def set(self, direction: str, conditions: Conditions) -> None:
        """Change what happens to packets from now on; LinkError."""
        self._ask("set", direction=direction, **_of(conditions))

    def remove(self, direction: str) -> None:
        """Carry these packets no more."""
        self._ask("remove", direction=direction)

    def stats(self) -> dict[str, Any]:
        """Counters since the start (delay_line.py); LinkError when it has died."""
        answer = self._ask("stats")
        for each in answer["directions"].values():
            each["lateness"] = {int(step): count for step, count in each["lateness"].items()}
        return answer

    def stop(self) -> None:
        """End it."""
        self._stopping = True
        self._control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._watcher.join()

    def _ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        with self._lock:
            try:
                self._control.sendall(json.dumps({"do": what, **arguments}).encode())
                message = self._control.recv(_LONGEST)
            except TimeoutError:
                self.process.kill()  # its answers would be taken for those to other questions
                message = b""
            except OSError:
                message = b""
        if not message:
            self._watcher.join(_PATIENCE)
            raise LinkError(self._reason or "the delay line has ended")
        answer: dict[str, Any] = json.loads(message)
        if "error" in answer:
            raise LinkError(f"the delay line cannot {what}: {answer['error']}")
        return answer

    def _watch(self) -> None:
        """Wait for its end; if that is not wanted, tell why."""
        code = self.process.wait()
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            said = stream.read().decode(errors="replace").strip().splitlines()
        if not self._stopping:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self._reason = f"the delay line (process {self.process.pid}) has died: {' '.join([how, *said[-1:]])}"
            self._died(self._reason)


def _of(conditions: Conditions) -> dict[str, float]:
    return {"delay": conditions.delay, "jitter": conditions.jitter, "loss": conditions.loss}
