"""`docker compose run --rm train` for real: the miniature is trained in the image, as a user that is not root."""

import json
import os
import re
import stat
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors import safe_open

from containers.checkout import CPU_FILES, Checkout, docker, docker_logs

pytestmark = pytest.mark.containers

NAME = "containers"


@dataclass(frozen=True)
class Trained:
    """A checkout in which one training run was made, and where its LoRA should be."""

    checkout: Checkout
    lora: Path


@pytest.fixture(scope="session")
def trained(checkout: Checkout) -> Trained:
    """The first command of a new user without a token or a GPU: there is no image yet, and there are no weights."""
    subprocess.run(["docker", "image", "rm", f"{checkout.project}-train"], capture_output=True, check=False)
    flags = ["--model", "miniature", "--max_train_steps", "20", "--output_name", NAME]
    checkout.compose("run", "--rm", "-T", "train", *flags)
    return Trained(checkout, checkout.folder / "models" / "loras" / f"{NAME}.safetensors")


@pytest.fixture(scope="session")
def token(checkout: Checkout) -> str:
    """Lies in secrets/token, readable by PUID alone."""
    text = "hf_" + "x" * 34
    secret = checkout.folder / "secrets" / "token"
    secret.parent.mkdir()
    secret.write_text(text + "\n")
    secret.chmod(0o600)
    os.chown(secret, checkout.uid, checkout.gid)
    return text


def test_the_lora_is_the_callers_and_readable_by_comfyui(trained: Trained) -> None:
    """safetensors writes files that only their owner can read; ComfyUI may run as another user."""
    status = trained.lora.stat()
    assert (status.st_uid, status.st_gid) == (trained.checkout.uid, trained.checkout.gid)
    assert stat.S_IMODE(status.st_mode) == 0o644


def test_the_lora_has_the_key_names_that_comfyui_loads(trained: Trained) -> None:
    with safe_open(trained.lora, "pt") as file:
        names = list(file.keys())
    assert names
    assert all(name.startswith(("transformer.", "text_encoder.text_model.encoder.")) for name in names)


def test_everything_a_run_writes_is_the_callers(trained: Trained) -> None:
    root = trained.checkout.folder
    written = [path for folder in ("models", "runs", "cache") for path in (root / folder).rglob("*")]
    assert trained.lora in written
    assert {path.lstat().st_uid for path in written} == {trained.checkout.uid}


def test_download_and_flush_ran_to_their_end_before(trained: Trained) -> None:
    for service in ("download", "flush"):
        (container,) = trained.checkout.containers(service)
        assert container["State"]["Status"] == "exited"
        assert container["State"]["ExitCode"] == 0


def test_a_download_that_fails_stops_the_training(trained: Trained) -> None:
    root = trained.checkout.folder
    (root / "failing.yml").write_text("services: { download: { command: [--no_such_flag] } }\n")
    before = sorted((root / "runs").iterdir())
    files = {"COMPOSE_FILE": f"{CPU_FILES}:failing.yml"}
    run = trained.checkout.compose("run", "--rm", "-T", "train", "--model", "miniature", ok=False, env=files)
    assert run.returncode == 1
    assert 'service "download" didn\'t complete successfully: exit 2' in run.stderr
    assert sorted((root / "runs").iterdir()) == before


def test_train_repeats_why_the_download_was_refused(trained: Trained) -> None:
    """FLUX.1-dev without a token; or without a network, where these tests run without one."""
    run = trained.checkout.compose("run", "--rm", "-T", "train", "--model", "flux-dev", ok=False)
    assert run.returncode == 1
    refusal = (trained.checkout.folder / "models" / "download-refused.txt").read_text().splitlines()[0]
    assert "black-forest-labs/FLUX.1-dev" in refusal
    assert refusal in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_a_stopped_container_stops_the_run_in_order(trained: Trained) -> None:
    """`docker stop` sends SIGTERM; exit code 75 says that the trainer heard it, 137 would say that it was killed."""
    long = ["--model", "miniature", "--max_train_steps", "100000", "--output_name", "stopped"]
    started = trained.checkout.compose("run", "--detach", "-T", "--no-deps", "train", *long)
    name = started.stdout.split()[-1]
    try:
        deadline = time.monotonic() + 120
        while "optimizer steps" not in docker_logs(name):  # the plan; the progress bar after it is no whole line
            assert time.monotonic() < deadline, docker_logs(name)
            time.sleep(0.5)
        docker("stop", "--time", "60", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name).strip() == "75"
    finally:
        docker("rm", "--force", name)


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--no_such_flag"], 2),
        (["--data", "flux_data/no-such-file.toml"], 1),
    ],
)
def test_the_exit_code_is_the_trainers(trained: Trained, flags: list[str], code: int) -> None:
    run = trained.checkout.compose("run", "--rm", "--no-deps", "-T", "train", "--model", "miniature", *flags, ok=False)
    assert run.returncode == code
    assert "Traceback" not in run.stdout + run.stderr


def test_the_lora_says_nothing_about_the_machine(trained: Trained) -> None:
    with safe_open(trained.lora, "pt") as file:
        about = json.dumps(file.metadata())
    for private in (str(trained.checkout.folder), "/app", "hf_", str(trained.checkout.uid)):
        assert private not in about


def test_the_image_says_nothing_about_the_machine(trainer: Checkout, token: str) -> None:
    """Neither its layers nor its settings name a token, a folder of the host or the address of a registry."""
    image = f"{trainer.project}-train"
    about = docker("history", "--no-trunc", image) + docker("image", "inspect", image)
    for private in (token, str(trainer.folder), "index-url", "https://"):
        assert private not in about


def test_only_download_gets_the_token(trainer: Checkout, token: str) -> None:
    """It is a file in its container, and no container's settings hold it."""
    read = (
        "import os, pathlib\n"
        "file = pathlib.Path('/run/secrets/hf_token')\n"
        "print('>', repr(file.read_text()) if file.exists() else None, os.environ.get('HF_TOKEN_PATH'))"
    )
    with_token = {"HF_TOKEN_FILE": "./secrets/token"}
    assert trainer.python("download", read, with_token) == [f"'{token}\\n' /run/secrets/hf_token"]
    assert trainer.python("train", read, with_token) == ["None None"]
    assert trainer.python("download", read) == ["'' /run/secrets/hf_token"]  # no token at all: an empty file

    trainer.compose("create", "download", env=with_token)
    (container,) = trainer.containers("download")
    assert token not in json.dumps(container)


def test_train_writes_to_its_own_folders_only(trainer: Checkout) -> None:
    code = (
        "from pathlib import Path\n"
        "for folder in ('/app', '/app/cache', '/app/flux_data', '/app/models', '/app/models/checkpoints', "
        "'/app/models/loras', '/app/models/vae', '/app/recipes', '/app/runs', '/opt/fluxbooth', '/tmp', '/usr'):\n"
        "    try:\n"
        "        Path(folder, 'probe').touch()\n"
        "        Path(folder, 'probe').unlink()\n"
        "        print('>', folder)\n"
        "    except OSError:\n"
        "        pass"
    )
    assert trainer.python("train", code) == ["/app/cache", "/app/models/loras", "/app/runs", "/tmp"]


def test_train_cannot_reach_any_other_machine(trainer: Checkout) -> None:
    """It has a network to reach ComfyUI by, without a way out. `download` has one."""
    code = (
        "import pathlib\n"
        "routes = [line.split() for line in pathlib.Path('/proc/net/route').read_text().splitlines()[1:]]\n"
        "print('>', len(routes), 'default' if any(route[1] == '00000000' for route in routes) else 'local')"
    )
    assert trainer.python("train", code) == ["1 local"]
    assert trainer.python("download", code) == ["2 default"]


def test_train_has_no_capabilities_and_no_root(trainer: Checkout) -> None:
    code = (
        "import os, pathlib\n"
        "status = dict(line.split(':\\t') for line in pathlib.Path('/proc/self/status').read_text().splitlines())\n"
        "print('>', os.getuid(), os.getgid(), status['CapEff'], status['CapBnd'], status['NoNewPrivs'])"
    )
    nothing = "0" * 16
    ids = f"{trainer.uid} {trainer.gid}"
    assert trainer.python("train", code) == [f"{ids} {nothing} {nothing} 1"]


def test_a_missing_folder_is_an_error_and_is_not_made(trainer: Checkout) -> None:
    """An engine that makes it makes it root's, and the service cannot write there."""
    elsewhere = {"FLUXBOOTH_RUNS_DIR": "./elsewhere"}
    run = trainer.compose("run", "--rm", "--no-deps", "-T", "train", ok=False, env=elsewhere)
    assert run.returncode != 0
    assert "does not exist" in run.stderr
    assert not (trainer.folder / "elsewhere").exists()


def test_flush_says_how_much_memory_came_back(trainer: Checkout) -> None:
    said = trainer.compose("run", "--rm", "-T", "flush").stdout
    assert re.search(r"flush: the page cache is dropped: \d+\.\d GiB came back, \d+\.\d GiB free now", said)


def test_flush_where_it_may_not(trainer: Checkout) -> None:
    """As any other user than root; it says so, and `train` can go on."""
    run = trainer.compose("run", "--rm", "-T", "--user", "12345", "flush")
    assert "flush: the page cache stays as it is" in run.stdout


def test_the_monitor_shows_the_runs_curves_on_this_machine_alone(trained: Trained) -> None:
    checkout = trained.checkout
    checkout.compose("up", "--detach", "monitor")
    address = f"http://127.0.0.1:{checkout.settings['MONITOR_PORT']}/data/runs"
    runs: list[str] = []
    for _ in range(120):  # TensorBoard takes seconds to start, and reads the files a little later
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                runs = json.load(answer)
        except OSError:
            pass
        if runs:
            break
        time.sleep(0.5)
    assert f"{NAME}/logs" in runs
    assert checkout.compose("port", "monitor", "6006").stdout.startswith("127.0.0.1:")
    checkout.compose("down", "monitor", ok=False)
