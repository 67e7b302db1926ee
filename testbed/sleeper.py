"""How late a sleeper is woken: at real-time priority (the machine stalls) or at normal priority (programs compete).

    python -I -S sleeper.py PERIOD_MS normal|realtime

It sleeps until a moment, again and again. Each wake-up is a RECORD on standard output: the moment, how late it was, and
the priority. Only built-in modules: it starts in 10 ms and takes 9 MB, for it runs beside every experiment.
"""

import ctypes
import os
import struct
import sys
import time

RECORD = struct.Struct("=qqq")
"""CLOCK_MONOTONIC and lateness in ns, then which of PRIORITIES."""
PRIORITIES = ("normal", "realtime")
_PR_SET_TIMERSLACK = 29


def main() -> None:
    """Until nobody reads any more; at once, where real-time priority is refused."""
    period, priority = float(sys.argv[1]) / 1e3, PRIORITIES.index(sys.argv[2])
    if priority:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except OSError:
            return
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # else the kernel may be 50 us late, to save energy
    due = time.monotonic()
    while True:
        # What a long delay has made late is not made up for: it is one record.
        due = max(due + period, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        try:
            os.write(1, RECORD.pack(round(due * 1e9), round((now - due) * 1e9), priority))
        except BrokenPipeError:
            return


if __name__ == "__main__":
    main()
