"""Commands: one thin module each.  Exit codes: 0 done, 1 failed, 2 wrong usage."""

import functools
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from oslo_config import cfg

from gnocchi.exceptions import GnocchiError

# A library below tooz loads eventlet wherever it is installed, which none of our programs uses: a fifth of metricd's
# start, and 18 MB of memory.
sys.modules.setdefault("eventlet", None)  # type: ignore[arg-type]

# Nor does one colour the error pages of Mako, which Pecan loads: 5 MB.
sys.modules.setdefault("pygments", None)  # type: ignore[arg-type]


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def command(function: Callable[[], int | None]) -> Callable[[], int]:
    """Make a command that tells what is wrong in one line, not in a traceback."""

    @functools.wraps(function)
    def run() -> int:
        try:
            return function() or 0
        except (cfg.Error, GnocchiError) as e:
            print(f"{os.path.basename(sys.argv[0])}: {e}", file=sys.stderr)
            return 1

    return run


def stop_by_signals(stop: Callable[[], None], wake_fd: int) -> None:
    """Have the first signal stop a daemon, and wake it by a byte; who does not want to wait for it sends a second."""

    def handle(number: int, frame: FrameType | None) -> None:
        for either in STOP_SIGNALS:
            signal.signal(either, signal.SIG_DFL)
        stop()

    for number in STOP_SIGNALS:
        signal.signal(number, handle)
    signal.set_wakeup_fd(wake_fd)
