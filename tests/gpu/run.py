"""Runs a fluxbooth command on the stand-in, and prints what that saw as JSON: python -m gpu.run LIBRARY MIB COMMAND...

MIB is what the device has of memory; a plan is made for a GPU of 80 GiB all the same.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections import Counter
from pathlib import Path

from gpu.stand_in import StandIn, answer_for


def main(library: str, mib: str, *command: str) -> int:
    """Run the command; return its exit code."""
    device = StandIn(Path(library))
    answer_for(device, 80 << 30)
    device.limit(int(mib) << 20)

    from fluxbooth import cli  # noqa: PLC0415 - behind the device
    from fluxbooth.training import speeds  # noqa: PLC0415

    # Measured, a product of a GPU's size would take this device longer than all that follows.
    speeds._measured = lambda *_: speeds.Speeds(operations=6e14, bytes_to_device=5e10)

    package = Path(cli.__file__).parent
    waits: Counter[str] = Counter()

    def note() -> None:
        frames = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(package)]
        names = [f"{Path(frame.filename).stem}.{frame.name}" for frame in frames]
        if "loop.train" in names and not any(name.endswith(".after_step") for name in names):
            waits[names[-1]] += 1

    device.on_wait(note)
    code = cli.main(list(command))
    print(json.dumps({"waits_in_steps": waits, "most": device.most, "refused": device.refused}))  # noqa: T201
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
