"""Train the miniature from nothing and write its files into the package: `python scripts/train_miniature.py`.

Every stage leaves its state in cache/miniature-training; the same command goes on where it was stopped. `--only STAGE`
runs one stage. It takes a GPU where there is one (which has not been tried), else up to eight processes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from miniature.card import write_card
from miniature.export import export
from miniature.flow import train_flow
from miniature.towers import train_scorer, train_towers
from miniature.vae import train_vae
from miniature.workers import Worker, run_workers

REPOSITORY = Path(__file__).resolve().parents[1]
STAGES: dict[str, Callable[[Worker, Path], None]] = {
    "vae": train_vae,
    "towers": train_towers,
    "scorer": train_scorer,
    "flow": train_flow,
}


def main() -> None:
    """Run the stages in their order, each unless its result is there, then write files and model card."""
    parser = argparse.ArgumentParser(description="Train the miniature from nothing; resumes.")
    parser.add_argument("--only", choices=[*STAGES, "export"], help="run one stage")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "cache/miniature-training", help="states and logs")
    parser.add_argument("--package", type=Path, default=REPOSITORY / "src/fluxbooth/miniature", help="the files' place")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, train in STAGES.items():
        if options.only in (None, name):
            run_workers(train, options.folder)
    if options.only in (None, "export"):
        export(options.folder, options.package)
        write_card(options.folder, options.package)


if __name__ == "__main__":
    main()
