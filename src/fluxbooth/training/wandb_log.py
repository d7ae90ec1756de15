"""A run's curves on Weights & Biases, where the user has installed its package wandb."""

from __future__ import annotations

import importlib
import importlib.util
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from requests.utils import get_netrc_auth

from fluxbooth.errors import Problem, UserError
from fluxbooth.host.files import write_text

_SERVER = "https://api.wandb.ai"
_WITHOUT_A_KEY = ("offline", "disabled", "dryrun")


def check_wandb() -> None:
    """Raise UserError where the package is missing, or a key: the library would ask for it in the middle of a run."""
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            Problem(
                "Weights & Biases needs the package wandb, which is not installed",
                where="log_with",
                allowed="tensorboard needs nothing",
                do="pip install wandb",
            )
        )
    server = os.environ.get("WANDB_BASE_URL", _SERVER)
    if os.environ.get("WANDB_MODE") in _WITHOUT_A_KEY or os.environ.get("WANDB_API_KEY") or get_netrc_auth(server):
        return
    raise UserError(
        Problem(
            f"there is no key for {server}",
            where="log_with",
            do="Set WANDB_API_KEY in the environment, run `wandb login`, or set WANDB_MODE=offline",
        )
    )


class WandbLog:
    """Writes one run of Weights & Biases; a run that goes on goes on there."""

    def __init__(self, folder: Path, project: str, name: str, settings: Mapping[str, Any]) -> None:
        """Begin, or go on with what `folder` names.

        Args:
            project, name: what the run stands under.
            settings: shown beside the curves.

        Raises:
            UserError: when Weights & Biases refuses the run.
        """
        wandb = importlib.import_module("wandb")
        file = folder / "wandb_id"
        if not file.is_file():
            write_text(file, secrets.token_hex(4))
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                id=file.read_text(encoding="utf-8").strip(),
                resume="allow",
                dir=str(folder),
                config=dict(settings),
                settings=wandb.Settings(console="off", silent=True),
            )
        except (wandb.Error, OSError) as error:
            raise UserError(
                Problem(
                    f"Weights & Biases refuses: {error}", where="log_with", do="Set WANDB_MODE=offline, or leave it out"
                )
            ) from error
        # Its own counter takes no step twice, and a run that was killed does some again.
        self._run.define_metric("*", step_metric="step")

    def write(self, points: Mapping[str, float], step: int) -> None:
        """Write one point of each of these curves."""
        self._run.log({**points, "step": step})

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
