"""Run a few lines as a user without rights: root may read and write everywhere, which hides what others meet."""

from __future__ import annotations

import os
import subprocess
import sys

USER = 65534 if os.getuid() == 0 else os.getuid()
"""Who runs them: "nobody" where the tests run as root, else whoever runs the tests."""

_DROP_RIGHTS = f"""
import os, sys
from pathlib import Path
if os.getuid() == 0:
    os.setgroups([])
    os.setgid({USER})
    os.setuid({USER})
"""


def last_line_of(imports: str, program: str, argument: str) -> str:
    """Return the last line that `program` writes, be it a result or the end of a traceback.

    Args:
        imports: executed first, while the interpreter's own files can still be read.
        argument: what `program` finds as sys.argv[1].
    """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join((imports, _DROP_RIGHTS, program)), argument],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return (done.stdout.strip().splitlines() or [""])[-1]
