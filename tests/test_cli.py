"""The command as its user meets it: flags, words and exit codes."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from comfyui.local_comfyui import local_comfyui
from PIL import Image
from reporting.made_run import make_run
from safetensors.torch import load_file

import fluxbooth
from fluxbooth.cli import main
from fluxbooth.config.recipe import Recipe
from fluxbooth.flux.lora_formats import LoraLayer, as_tensors, metadata_of
from fluxbooth.flux.tensor_files import save_tensors
from fluxbooth.host.weights import BaseWeights

COMMANDS = (
    "bench",
    "download",
    "caption",
    "check",
    "train",
    "report",
    "generate",
    "score",
    "regularize",
    "flush",
    "demo",
    "lora",
    "comfy",
    "concept",
    "import",
)
INSTALLED = Path(sysconfig.get_path("scripts")) / "fluxbooth"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everything that is written goes to a folder of the test's own; nobody listens where ComfyUI would."""
    monkeypatch.delenv("FLUXBOOTH_MODEL", raising=False)
    for name in ("models", "runs", "cache"):
        monkeypatch.setenv(f"FLUXBOOTH_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with socket.create_server(("127.0.0.1", 0)) as closing:
        monkeypatch.setenv("COMFYUI_URL", f"http://127.0.0.1:{closing.getsockname()[1]}")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """The command belongs to a process of its own: it takes over the log and SIGTERM, which are given back here."""
    root, ours = logging.getLogger(), logging.getLogger("fluxbooth")
    handlers, level, on_term = root.handlers[:], ours.level, signal.getsignal(signal.SIGTERM)
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)
    signal.signal(signal.SIGTERM, on_term)


def usage_error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what a call that is not understood says, having checked that it ends with 2."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# The command itself


@pytest.mark.parametrize("command", [[str(INSTALLED)], [sys.executable, "-m", "fluxbooth"]], ids=["fluxbooth", "-m"])
def test_the_installed_command_starts_and_says_its_version(command: list[str]) -> None:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"fluxbooth {fluxbooth.__version__}\n")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    listed = re.findall(r"^    (\w+)(?: |$)", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_help_of_every_command_comes_without_loading_torch() -> None:
    program = f"""
import contextlib, sys
from fluxbooth.cli import main
for arguments in ([], *([command] for command in {COMMANDS})):
    with contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
print("loaded:", sorted({{"torch", "diffusers", "transformers", "PIL"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.count("usage: fluxbooth") == 1 + len(COMMANDS)
    assert done.stdout.endswith("loaded: []\n")


@pytest.mark.parametrize("command", ["train", "check"])
def test_every_recipe_field_is_a_flag_of_the_same_name_with_its_meaning(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name, field in Recipe.model_fields.items():
        assert f" --{name} " in said.replace(",", " ")
        assert " ".join((field.description or "?").split()) in said


# What is not understood: exit code 2


def test_a_misspelt_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'train'?" in usage_error_of(capsys, "trian")


def test_an_unknown_command_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    said = usage_error_of(capsys, "fly")
    assert "'fly'" in said
    assert all(command in said for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["train", "--netwerk_dim", "4"], "--network_dim"),
        (["train", "--netwerk_dim=4"], "--network_dim"),
        (["train", "--max-train-steps", "4"], "--max_train_steps"),
        (["check", "--modle", "miniature"], "--model"),
        (["flush", "--model-dir", "models"], "--models-dir"),
        (["generate", "--prompt", "a toy", "--loar", "toy"], "--lora"),
    ],
)
def test_a_misspelt_flag_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str], arguments: list[str], meant: str
) -> None:
    said = usage_error_of(capsys, *arguments)
    assert f"unknown argument '{arguments[-2] if '=' not in arguments[-1] else arguments[-1]}'" in said
    assert f"Did you mean '{meant}'?" in said


def test_a_flag_is_not_completed_from_its_first_letters(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown argument '--network_d'" in usage_error_of(capsys, "train", "--network_d", "4")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["train", "--network_dim", "many"], "'many'"),
        (["train", "--optimizer_type", "Lionn"], "'Lionn'"),
        (["generate"], "--prompt"),
        (["generate", "--prompt", "a toy", "--width", "1000"], "1000 is not a multiple of 16"),
        (["generate", "--prompt", "a toy", "--steps", "0"], "0 is not a whole number from 1"),
        (["generate", "--prompt", "a toy", "--seed", "-3"], "-3 is not a whole number from 0"),
        (["generate", "--prompt", "a toy", "--guidance_scale", "nan"], "nan is not a number from 0"),
        (["comfy", "render", "base_flux", "--seed", str(2**64)], "is not a whole number from 0"),
        (["train", "--data", ""], "--data: it is empty"),
        (["train", "--recipe", ""], "--recipe: it is empty"),
        (["check", "--sheet", ""], "--sheet: it is empty"),
    ],
)
def test_a_value_that_cannot_be_read_is_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in usage_error_of(capsys, *arguments)


# What the user can mend: exit code 1, all of it at once, no traceback


@pytest.mark.usefixtures("in_repository")
def test_a_bad_flag_missing_data_and_an_unknown_model_are_said_in_one_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = tmp_path / "no_data.toml"
    assert main(["train", "--model", "flux-def", "--data", str(missing), "--learning_rate", "-1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("fluxbooth: ")
    assert "--learning_rate" in said
    assert str(missing) in said
    assert "'flux-def' is not a model" in said
    assert "Traceback" not in said
    assert files_below(tmp_path) == []


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--optimizer_args", "decuple=True"], "there is no 'decuple'; there are betas, eps"),
        (["--optimizer_args", "eps=1e-8", "eps=1e-9"], "'eps' is given twice"),
        (["--optimizer_args", "lr=1"], "'lr' is learning_rate"),
        (["--optimizer_args", "betas=0.9"], "AdamW with betas=0.9: "),
        (["--network_args", "foo"], "flag --network_args: 'foo' is not name=value"),
        (["--output_name", "a/b"], "output_name is \"a/b\". Allowed: letters, digits, '_', '-', '.'."),
        (["--clip_l", "nowhere"], "clip_l: 'nowhere' is not there. Allowed: the file of CLIP's text model"),
        (["--pretrained_model_name_or_path", "nowhere"], "Allowed: the file of a transformer, or a model's folder"),
        (["--t5xxl", ""], 't5xxl is ""'),
        (["--network_weights", "recipes"], "recipes: is a folder. Allowed: a LoRA file"),
        (["--sample_prompts", "recipes", "--sample_every_n_steps", "1"], "sample_prompts, recipes: is a folder"),
        (["--memory_floor", "1e9"], "memory_floor is 1e+09 GiB. Allowed: below the "),
        (["--recipe", "./flux_data"], "flux_data: is a folder. Allowed: TOML files there: data.toml"),
    ],
)
def test_a_wrong_value_is_named_alone(capsys: pytest.CaptureFixture[str], flags: list[str], said: str) -> None:
    """In one message, in which nothing else is wrong."""
    flags = ["--max_train_steps", "1", "--optimizer_type", "AdamW", *flags]
    assert main(["train", "--model", "miniature", *flags]) == 1
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1


@pytest.mark.usefixtures("in_repository")
def test_a_page_is_not_written_over_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["check", "--model", "miniature", "--sheet", str(tmp_path)]) == 1
    assert f"{tmp_path}: is a folder" in capsys.readouterr().err


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["caption", "flux_data/tjtoy/1.png"], "is a picture. Allowed: its folder, or a data.toml"),
        (["concept", "list", "--data", "flux_data"], "flux_data: is a folder. Allowed: TOML files there: data.toml"),
        (["import", "recipes/default.toml"], "it is a --recipe or a --data"),
        (["train", "--model", "miniature", "--data", "flux_data/tjtoy"], "no folder in it is named for training"),
    ],
)
def test_a_file_of_another_kind_is_answered_with_what_is_meant(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 1
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("in_repository")
def test_a_file_that_the_system_refuses_is_named_without_a_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / f"{'x' * 300}.html"
    assert main(["check", "--model", "miniature", "--sheet", str(page)]) == 1
    assert re.fullmatch(r"fluxbooth: .*x\.html: File name too long\.", capsys.readouterr().err.strip())


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("command", ["check", "train"])
def test_a_recipe_that_is_not_there_is_answered_with_those_there_are(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, "--model", "miniature", "--recipe", "playbok"]) == 1
    said = capsys.readouterr().err
    assert "no recipe 'playbok'. Allowed: default, demo, miniature, miniature-playbook, playbook" in said
    assert "Did you mean 'playbook'?" in said


# NVIDIA's DGX Spark playbook for FLUX, launch_train.sh: what follows flux_train_network.py, as it stands there.
PLAYBOOKS_FLAGS = """
    --pretrained_model_name_or_path=models/checkpoints/flux1-dev.safetensors
    --clip_l=models/text_encoders/clip_l.safetensors --t5xxl=models/text_encoders/t5xxl_fp16.safetensors
    --ae=models/vae/ae.safetensors
    --dataset_config=flux_data/data.toml --output_dir=models/loras/ --prior_loss_weight=1.0
    --output_name=flux_dreambooth --save_model_as=safetensors --network_module=networks.lora_flux --network_dim=256
    --network_alpha=256 --learning_rate=1.0 --optimizer_type=Prodigy --lr_scheduler=cosine_with_restarts
    --gradient_accumulation_steps 4 --gradient_checkpointing --sdpa --max_train_epochs=100 --save_every_n_epochs=25
    --mixed_precision=bf16 --guidance_scale=1.0 --timestep_sampling=flux_shift --model_prediction_type=raw
    --torch_compile --persistent_data_loader_workers --cache_latents --cache_latents_to_disk
    --cache_text_encoder_outputs --cache_text_encoder_outputs_to_disk
"""


def test_the_playbooks_launch_command_is_understood_as_it_stands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: BaseWeights
) -> None:
    for name, part in {
        "checkpoints/flux1-dev.safetensors": weights.transformer,
        "vae/ae.safetensors": weights.vae,
        "text_encoders/clip_l.safetensors": weights.clip,
        "text_encoders/t5xxl_fp16.safetensors": weights.t5,
        "text_encoders/tokenizer": weights.clip_tokenizer,
        "text_encoders/tokenizer_2": weights.t5_tokenizer,
    }.items():
        (tmp_path / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "models" / name).symlink_to(part)
    for folder in ("flux_data", "recipes"):
        (tmp_path / folder).symlink_to(Path(__file__).parents[1] / folder)
    monkeypatch.chdir(tmp_path)
    assert main(["check", *PLAYBOOKS_FLAGS.split()]) == 0
    said = capsys.readouterr().out
    assert "13 samples an epoch, 400 optimizer steps (100 epochs)" in said
    assert sorted(re.findall(r"^(\w+) is not needed: ", said, re.MULTILINE)) == [
        "cache_latents",
        "cache_latents_to_disk",
        "cache_text_encoder_outputs",
        "cache_text_encoder_outputs_to_disk",
        "model_prediction_type",
        "network_module",
        "persistent_data_loader_workers",
        "save_model_as",
        "sdpa",
        "torch_compile",
    ]


@pytest.mark.usefixtures("in_repository")
def test_training_flux_without_its_weights_says_what_it_would_cost_here_and_how_to_get_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "download-refused.txt").write_text("the repository is gated", encoding="utf-8")

    assert main(["train", "--model", "flux-dev"]) == 1

    out, err = capsys.readouterr()
    assert "tjtoy toy: 6 pictures" in out
    assert "sparkgpu gpu: 7 pictures" in out
    # The default recipe's 2,000 samples; the operations follow from FLUX.1-dev's shapes, the time from this machine.
    assert re.search(
        r"2,000 samples, \d\d\d,\d{3} TFLOP; at the [\d,.]+ TFLOP/s measured here at least [\d.]+ \w+", out
    )
    assert "base weights are missing" in err
    assert str(tmp_path / "models/checkpoints/flux1-dev.safetensors") in err
    assert "Run `fluxbooth download`" in err
    assert "--model miniature" in err
    assert "the last download said: the repository is gated" in err
    assert "Traceback" not in err


def test_a_user_error_of_the_installed_command_has_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", os.environ["COMFYUI_URL"])  # nobody listens there
    done = subprocess.run([INSTALLED, "download"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("fluxbooth: black-forest-labs/FLUX.1-dev: the hub cannot be reached")
    assert done.stderr.count("cannot be reached") == 1, "no other repository was waited for"
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines() == [
        f"warning: the hub cannot be reached; asked again in {seconds} s" for seconds in (2, 4, 8)
    ]


# What goes through: exit code 0


@pytest.mark.usefixtures("in_repository")
def test_check_says_that_nothing_stands_in_the_way_of_the_miniature(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["check", "--model", "miniature", "--max_train_steps", "7", "--train_batch_size", "1"]) == 0
    said = capsys.readouterr().out
    assert "13 samples an epoch, 7 optimizer steps" in said
    assert "7 samples" in said
    assert "nothing stands in the way" in said
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "models").exists()


def test_there_is_nothing_to_download_for_the_miniature(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "--model", "miniature"]) == 0
    assert capsys.readouterr().out == "nothing to download for the miniature: it comes with fluxbooth\n"


def test_the_model_may_also_come_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUXBOOTH_MODEL", "miniature")
    assert main(["download"]) == 0
    assert "nothing to download for the miniature" in capsys.readouterr().out


@pytest.mark.parametrize("allowed", [True, False])
def test_flush_says_which_page_cache_it_dropped_and_what_came_back(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, allowed: bool
) -> None:
    switch = tmp_path / "drop_caches"
    switch.touch() if allowed else switch.mkdir()
    monkeypatch.setattr("fluxbooth.host.page_cache._SWITCH", switch)
    for name in ("models/vae/ae.safetensors", "cache/latents/1.safetensors", "runs/toy/train.log"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"bytes")

    assert main(["flush"]) == 0

    said = capsys.readouterr().out
    assert f"no ComfyUI at {os.environ['COMFYUI_URL']}, nothing to unload" in said
    ours = f"dropped the page cache of 2 files in {tmp_path / 'models'} and {tmp_path / 'cache'}"
    assert ("dropped the machine's whole page cache" in said) == allowed
    assert (ours in said) == (not allowed)
    assert re.search(r"\d+\.\d GiB came back, \d+\.\d GiB are free now", said)
    if allowed:
        assert switch.read_text() == "3"


def test_flush_works_on_a_machine_where_nothing_was_made_yet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("fluxbooth.host.page_cache._SWITCH", tmp_path / "none")
    assert main(["flush"]) == 0
    assert "dropped the page cache of 0 files" in capsys.readouterr().out


@pytest.mark.usefixtures("in_repository")
def test_generate_draws_every_prompt_and_says_what_made_the_picture(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = ["--width", "32", "--height", "16", "--steps", "1", "--out", str(tmp_path / "drawn")]
    prompts = ["--prompt", "a toy on a beach", "--prompt", "a gpu"]
    assert main(["generate", "--model", "miniature", "--seed", "3", *prompts, *small]) == 0
    first, second = tmp_path / "drawn/0001_seed3.png", tmp_path / "drawn/0002_seed3.png"
    assert f"wrote {first}: a toy on a beach\nwrote {second}: a gpu\n" in capsys.readouterr().out
    with Image.open(first) as picture:
        picture.load()
        assert picture.size == (32, 16)
        assert picture.info == {"prompt": "a toy on a beach", "seed": "3", "model": "miniature", "loras": ""}


# A run's page


def test_report_without_a_name_takes_the_run_that_was_worked_on_last_and_names_the_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, age in (("old", 100), ("new", 0)):
        run = make_run(tmp_path / "runs" / name, rounds=())
        for file in (run / "run.toml", run / "logs/steps.jsonl"):
            os.utime(file, (1e9 - age, 1e9 - age))
    assert main(["report"]) == 0
    page = tmp_path / "runs/new/report.html"
    said = capsys.readouterr().out
    assert said == f"new is the run that was worked on last; others: old\nwrote {page}\n"
    assert page.is_file()
    assert main(["report", "old"]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'runs/old/report.html'}\n"


def test_report_watches_a_training_and_says_so_where_there_is_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "runs/mokka", rounds=())
    assert main(["report", "mokka", "--watch"]) == 0
    assert capsys.readouterr().out == f"no training is going on in {run}; wrote {run / 'report.html'}\n"


def test_report_of_a_run_that_is_not_there_names_those_that_are(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["report"]) == 1
    assert "no run is there yet" in capsys.readouterr().err
    make_run(tmp_path / "runs/mokka", rounds=())
    assert main(["report", "moka"]) == 1
    assert "Did you mean 'mokka'?" in capsys.readouterr().err


# Stopped on request: exit code 75


@pytest.mark.slow
@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("request_to_stop", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_training_stopped_on_request_ends_with_75_and_leaves_no_half_lora(
    tmp_path: Path, request_to_stop: signal.Signals
) -> None:
    said = tmp_path / "said.txt"
    with said.open("wb") as out:
        training = subprocess.Popen(
            [INSTALLED, "train", "--model", "miniature", "--max_train_steps", "5000", "--save_every_n_steps", "1"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        try:
            deadline = time.monotonic() + 120
            while not list((tmp_path / "models" / "loras").glob("*.safetensors")):
                assert training.poll() is None, said.read_text("utf-8")
                assert time.monotonic() < deadline, said.read_text("utf-8")
                time.sleep(0.05)
            training.send_signal(request_to_stop)
            assert training.wait(timeout=60) == 75
        finally:
            training.kill()
            training.wait()
    assert re.search(r"fluxbooth: stopped at step \d+ of 5000; .*the same command goes on", said.read_text("utf-8"))
    assert "Traceback" not in said.read_text("utf-8")
    page = (tmp_path / "runs/miniature/report.html").read_text("utf-8")
    assert '<p class="over">Stopped</p>' in page
    left = sorted(path.name for path in (tmp_path / "models" / "loras").iterdir())
    assert left
    for name in left:
        assert re.fullmatch(r"miniature-step\d{8}\.safetensors", name)
        assert load_file(tmp_path / "models" / "loras" / name)  # raises where the file is cut off


def test_a_training_ends_with_its_lora_its_workflow_and_its_page(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    weights: BaseWeights,
    make_concept: Callable[..., Path],
) -> None:
    """The miniature's files under another name: with FLUX's own, ComfyUI is there to draw."""
    monkeypatch.setenv("FLUXBOOTH_WORKFLOWS_DIR", str(tmp_path / "workflows"))
    (tmp_path / "another").symlink_to(weights.transformer.parents[1])
    (tmp_path / "data.toml").write_text(
        "[[datasets]]\nresolution = 64\nenable_bucket = false\n[[datasets.subsets]]\n"
        f'image_dir = "{make_concept("mokka", [(64, 64)])}"\nclass_tokens = "mokka dog"\n',
        encoding="utf-8",
    )
    flags = ["--max_train_steps", "1", "--network_dim", "2", "--output_name", "mokka", "--learning_rate", "1e-4"]
    assert main(["train", "--model", str(tmp_path / "another"), "--data", str(tmp_path / "data.toml"), *flags]) == 0
    said = capsys.readouterr().out
    for file in ("models/loras/mokka.safetensors", "workflows/runs/mokka.json", "runs/mokka/report.html"):
        assert (tmp_path / file).is_file()
        assert f"wrote {tmp_path / file}" in said


def test_a_model_that_cannot_be_downloaded_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "--model", "flux-dve"]) == 1
    assert "Allowed: flux-dev, miniature" in capsys.readouterr().err


@pytest.mark.parametrize("lora", ["mine.safetensors:nan", "mine.safetensors:inf"])
def test_a_strength_that_is_no_number_is_refused(capsys: pytest.CaptureFixture[str], lora: str) -> None:
    assert main(["generate", "--model", "miniature", "--prompt", "a toy", "--lora", lora]) == 1
    assert "a finite number" in capsys.readouterr().err


def test_pictures_go_into_the_runs_folder_wherever_that_was_moved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLUXBOOTH_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("FLUXBOOTH_CACHE_DIR", str(tmp_path / "cache"))
    size = ["--width", "32", "--height", "32", "--steps", "1"]
    for _ in range(2):
        assert main(["generate", "--model", "miniature", "--prompt", "a toy", *size]) == 0
    assert sorted(path.name for path in (tmp_path / "runs/generated").iterdir()) == ["0001_seed0.png", "0002_seed0.png"]


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A LoRA of rank 4 on one matrix, among the LoRAs of the models folder."""
    path = tmp_path / "models/loras/mine.safetensors"
    name = "transformer.transformer_blocks.0.attn.to_k"
    layer = LoraLayer(torch.randn(4, 192), torch.randn(192, 4), 8.0)
    save_tensors(path, as_tensors([(name, layer)]), {"modelspec.trigger_phrase": "tjtoy toy"})
    return path


def test_a_lora_is_inspected_by_its_name(capsys: pytest.CaptureFixture[str], lora: Path) -> None:
    assert main(["lora", "inspect", lora.name]) == 0
    said = capsys.readouterr().out
    assert "mine.safetensors: 0.0 MB, float32, key names of diffusers" in said
    assert "trigger_phrase: tjtoy toy" in said
    assert "1 layer of rank 4, alpha 8, scale 2" in said
    assert "transformer.transformer_blocks.0.attn.to_k" in said


def test_a_lora_is_converted_and_made_smaller_beside_itself(capsys: pytest.CaptureFixture[str], lora: Path) -> None:
    assert main(["lora", "convert", lora.name, "--to", "kohya"]) == 0
    kohya = lora.with_name("mine-kohya.safetensors")
    assert "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight" in load_file(kohya)
    assert main(["lora", "resize", kohya.name, "--rank", "2"]) == 0
    small = lora.with_name("mine-kohya-rank2.safetensors")
    assert load_file(small)["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"].shape == (3 * 192, 2)
    assert metadata_of(small)["ss_network_dim"] == "2"
    assert metadata_of(small)["modelspec.trigger_phrase"] == "tjtoy toy"
    assert f"wrote {small}" in capsys.readouterr().out


def test_a_lora_that_is_there_is_not_written_over(capsys: pytest.CaptureFixture[str], lora: Path) -> None:
    assert main(["lora", "resize", lora.name, "--rank", "2", "--out", str(lora)]) == 1
    assert "is there already" in capsys.readouterr().err


def test_a_workflow_that_is_not_there_is_answered_with_those_there_are(
    capsys: pytest.CaptureFixture[str], in_repository: Path
) -> None:
    assert main(["comfy", "render", "finetuned_flx"]) == 1
    said = capsys.readouterr().err
    assert "Allowed: base_flux, finetuned_flux (files in workflows/api), or a file" in said
    assert "Did you mean 'finetuned_flux'?" in said


def test_comfyui_draws_a_bundled_workflow_with_another_lora(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_repository: Path
) -> None:
    with local_comfyui() as comfyui:
        monkeypatch.setenv("COMFYUI_URL", comfyui.url)
        flags = ["--prompt", "mokka dog in space", "--lora", "mokka.safetensors:0.8", "--out", str(tmp_path / "out")]
        assert main(["comfy", "render", "finetuned_flux", *flags]) == 0
    assert f"wrote {tmp_path / 'out/finetuned_00001_.png'}" in capsys.readouterr().out
    values = {node["class_type"]: node["inputs"] for node in comfyui.prompts[0].values()}
    assert values["LoraLoader"]["lora_name"] == "mokka.safetensors"
    assert values["LoraLoader"]["strength_clip"] == 0.8


def test_a_concept_is_added_listed_and_removed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("My-Dog", "cat"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "1.png")
    data = ["--data", str(tmp_path / "data.toml")]
    assert main(["concept", "add", str(tmp_path / "My-Dog"), "--class-noun", "dog", *data]) == 0
    assert main(["concept", "add", str(tmp_path / "cat"), "--class-noun", "cat", "--reg", "--repeats", "2", *data]) == 0
    assert main(["concept", "list", *data]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[-2:] == [
        f"mydog dog {tmp_path / 'My-Dog'} 1 picture num_repeats = 1 is_reg = false",
        f"cat {tmp_path / 'cat'} 1 picture num_repeats = 2 is_reg = true",
    ]
    assert main(["concept", "remove", "mydog dog", *data]) == 0
    assert main(["concept", "remove", "mydog dog", *data]) == 1
    assert "no concept 'mydog dog'" in capsys.readouterr().err


def test_settings_of_another_trainer_are_imported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text('{"LoRA_type": "Flux1", "train_data_dir": "img", "epoch": 3}', encoding="utf-8")
    assert main(["import", "mine.json"]) == 0
    assert "next: fluxbooth check --data imported/mine/data.toml --recipe imported/mine/recipe.toml" in (
        capsys.readouterr().out
    )
    assert main(["import", "mine.json"]) == 1
    assert "imported/mine/data.toml: is there already" in capsys.readouterr().err
