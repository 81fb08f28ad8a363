"""The process of `limits.in_child`: calls one function, and prints what it returned."""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil


def main() -> None:
    """Read a call from standard input, and print the answer as the last line."""
    with suppress(OSError):  # if memory is short on Linux, this process ends before any other does
        Path("/proc/self/oom_score_adj").write_text("1000")
    line = sys.stdin.buffer.readline()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    function, arguments = pickle.loads(base64.b64decode(line))
    print("\n" + json.dumps(function(**arguments)))


def _end_with_parent() -> None:
    """End this process and those that it has started once standard input is closed: the parent has ended."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


if __name__ == "__main__":
    main()
