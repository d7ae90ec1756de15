"""A run that is stopped and goes on ends in the same bytes as one that was never stopped."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from fluxbooth.errors import UserError
from fluxbooth.host.files import held_alone
from fluxbooth.host.folders import Folders
from fluxbooth.host.signals import StoppedOnRequestError, listening_for_stop
from fluxbooth.host.weights import BaseWeights
from fluxbooth.training.identity import run_identity
from fluxbooth.training.prepare import Prepared, prepare
from fluxbooth.training.run import gpu_held_alone, run
from fluxbooth.training.state import set_aside

SHORT = {
    "max_train_steps": 6,
    "output_name": "short",
    "save_precision": "float",
    "network_dim": 2,
    "optimizer_type": "AdamW",
    "learning_rate": 0.01,
    "text_encoder_lr": 0.0,
    "diff_output_preservation": 0.0,
}


def prepared(folders: Folders, **flags: object) -> Prepared:
    return prepare("miniature", Path("flux_data/data.toml"), "miniature", {**SHORT, **flags}, folders)


class _SignalAfter(logging.Handler):
    """Sends this process a SIGTERM, as `docker stop` does, when the line of a step is logged."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._line = f"step {step}/"

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(self._line):
            os.kill(os.getpid(), signal.SIGTERM)


def stop_after(step: int, folders: Folders, **flags: object) -> None:
    handler = _SignalAfter(step)
    logger = logging.getLogger("fluxbooth.steps")
    logger.addHandler(handler)
    try:
        with pytest.raises(StoppedOnRequestError, match=f"stopped at step {step} of 6"):
            run(prepared(folders, **flags))
    finally:
        logger.removeHandler(handler)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [("AdamW", 0.01), ("Prodigy", 1.0)], ids=["AdamW", "Prodigy"])
def test_going_on_gives_the_bytes_of_the_straight_run(
    in_repository: Path, folders: Folders, optimizer: tuple[str, float]
) -> None:
    """With CLIP trained along, and the class noun kept."""
    kind, rate = optimizer
    flags = {"optimizer_type": kind, "learning_rate": rate, "text_encoder_lr": rate, "lr_warmup_steps": 0}
    flags["diff_output_preservation"] = 0.5
    straight = run(prepared(folders, **flags))
    expected = straight.lora.read_bytes()
    straight.lora.unlink()

    stop_after(3, folders, **flags)
    assert not straight.lora.exists()
    assert (folders.run("short") / "state/state.pt").is_file()
    resumed = run(prepared(folders, **flags))
    assert resumed.lora.read_bytes() == expected
    assert (resumed.loss_before, resumed.loss_after) == (straight.loss_before, straight.loss_after)
    assert not (folders.run("short") / "state/state.pt").exists(), "a run that is done leaves no state"


def test_going_on_with_other_settings_is_refused_and_names_them(in_repository: Path, folders: Folders) -> None:
    stop_after(1, folders)
    with pytest.raises(
        UserError, match=r"other learning_rate \(0.01 there, 0.5 here\), network_dim \(2 there, 4 here\) was stopped"
    ):
        run(prepared(folders, learning_rate=0.5, network_dim=4))


def test_going_on_with_another_picture_held_out_is_refused(in_repository: Path, folders: Folders) -> None:
    stop_after(1, folders, validation_split=0.2)
    for flags in ({"validation_split": 0.2, "validation_seed": 5}, {}):
        with pytest.raises(UserError, match=r"other pictures or data.toml, validation_split or validation_seed was"):
            run(prepared(folders, **flags))


def test_products_in_fp8_make_another_run(in_repository: Path, folders: Folders) -> None:
    plain, in_fp8 = (
        run_identity(prepared(folders, mixed_precision="bf16", base_weights="fp8", fp8_products=chosen))
        for chosen in (False, True)
    )
    assert {name for name in plain if plain[name] != in_fp8[name]} == {"fp8_products"}


@pytest.fixture
def stopped(in_repository: Path, folders: Folders) -> Folders:
    """Folders in which a run was stopped after its first step."""
    stop_after(1, folders)
    return folders


def refusal(to_go_on: Prepared) -> str:
    with pytest.raises(UserError) as raised:
        run(to_go_on)
    return str(raised.value)


@pytest.mark.slow
def test_going_on_with_other_data_or_another_model_is_refused(stopped: Folders, tmp_path: Path) -> None:
    again = prepared(stopped)
    with_repeats = tmp_path / "repeats.toml"
    text = Path("flux_data/data.toml").read_text(encoding="utf-8")
    with_repeats.write_text(text.replace("num_repeats = 1", "num_repeats = 2", 1), encoding="utf-8")
    assert "other pictures or data.toml was stopped" in refusal(
        prepare("miniature", with_repeats, "miniature", dict(SHORT), stopped)
    )
    for part, name in (("transformer", "transformer"), ("vae", "VAE"), ("t5", "text encoders")):
        changed = tmp_path / f"{part}.safetensors"
        changed.write_bytes(getattr(again.weights, part).read_bytes()[:-2] + b"\x11\x22")
        others = BaseWeights(**{**vars(again.weights), part: changed})
        assert f"other {name} was stopped" in refusal(replace(again, weights=others))


def test_a_damaged_state_is_named(stopped: Folders) -> None:
    state = stopped.run("short") / "state/state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    assert f"{state}: is damaged" in refusal(prepared(stopped))


def test_a_second_run_of_the_same_name_at_the_same_time_is_refused(in_repository: Path, folders: Folders) -> None:
    with held_alone(folders.run("short")):
        assert "another run of this name is going on" in refusal(prepared(folders))


def test_a_signal_is_a_request_first_and_an_interruption_the_second_time() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def terminated_twice() -> None:
        with listening_for_stop() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.made
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        terminated_twice()
    assert signal.getsignal(signal.SIGTERM) is before


def test_two_trainings_do_not_share_a_gpu(folders: Folders) -> None:
    with gpu_held_alone(folders.runs, "GPU-1", "NVIDIA GB10"):
        with (
            pytest.raises(UserError, match="another training is going on on NVIDIA GB10"),
            gpu_held_alone(folders.runs, "GPU-1", "NVIDIA GB10"),
        ):
            pass
        with gpu_held_alone(folders.runs, "GPU-2", "NVIDIA GB10"):
            pass
    with gpu_held_alone(folders.runs, "GPU-1", "NVIDIA GB10"):
        pass


def test_two_trainings_may_share_the_processor(folders: Folders) -> None:
    with gpu_held_alone(folders.runs, "cpu", "the processor"), gpu_held_alone(folders.runs, "cpu", "the processor"):
        pass


def test_a_run_that_begins_anew_is_moved_aside_whole(folders: Folders) -> None:
    run_folder = folders.run("toy")
    assert set_aside(run_folder) is None
    for number in (1, 2):
        (run_folder / "state").mkdir(parents=True)
        (run_folder / "state/state.pt").write_text(f"state {number}")
        assert set_aside(run_folder) == folders.runs / f"toy.before-{number}"
    assert (folders.runs / "toy.before-1/state/state.pt").read_text() == "state 1"
    assert not run_folder.exists()


def test_a_run_that_is_going_on_is_not_moved(folders: Folders) -> None:
    with held_alone(folders.run("toy")), pytest.raises(UserError, match="another run of this name is going on"):
        set_aside(folders.run("toy"))
    assert folders.run("toy").is_dir()


def test_too_little_memory_stops_a_run_as_a_signal_does(
    in_repository: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_run = prepared(folders)
    monkeypatch.setattr("fluxbooth.host.memory._meminfo", {"MemAvailable": 2**30, "MemTotal": 2**37}.get)
    with pytest.raises(StoppedOnRequestError, match=r"only 1\.0 of 128 GiB of memory are available.* at step 1 of 6"):
        run(to_run)
    with pytest.raises(UserError, match=r"only 1\.0 of 128 GiB of memory are available, and a run stops below 6\.4"):
        prepared(folders)
    assert (folders.run("short") / "state/state.pt").is_file()
