"""A process that runs scripts one after another, so that what they import and load is there for the next one.

`processes.run_each` starts it. It reads requests from its standard input: each line is a JSON object with the
`script`, its `flags` and the `log` to which the output is appended. It answers each with a line that holds the exit
status.

This module imports only the standard library, because the scripts decide what else is needed.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import sys
import traceback
from collections.abc import Sequence


def serve() -> None:
    """Run the requested scripts until the standard input ends."""
    # the scripts get neither the requests as their input, nor the place of the answers as their output
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for line in requests:
        status = run(**json.loads(line))
        gc.collect()  # a model that is part of a cycle would stay in memory beside the next one
        gc.freeze()  # what is left now, such as modules, need not be looked through again and again
        print(status, file=answers, flush=True)


def run(script: str, flags: Sequence[str], log: str) -> int:
    """
    Run a script as `python SCRIPT FLAGS >> LOG 2>&1` would, but in this process.

    Args:
        script: path of the script.
        flags: its command-line arguments.
        log: the file to which its output is appended.

    Returns:
        The exit status.
    """
    with open(log, "ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv, sys.path[0] = [script, *flags], os.path.dirname(script)
    try:
        runpy.run_path(script, run_name="__main__")
        return 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    serve()
