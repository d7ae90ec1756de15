"""The Dockerfiles, compose files and scripts, read by their linters and by what they promise."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from containers.checkout import CPU_FILES, REPOSITORY, callers_environment, project_files

pytestmark = pytest.mark.containers

DOCKERFILES = ["Dockerfile.train", "Dockerfile.inference"]
FILE_SETS = ["docker-compose.yml", CPU_FILES]


def linter(name: str) -> str:
    """The program's path; it lies on the PATH or beside this Python."""
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], str(Path(sys.executable).parent)]))
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def compose_config(files: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", "compose", "--profile", "*", *arguments, "config", "--format", "json"]
    env = callers_environment() | {"COMPOSE_FILE": files}
    return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)


def services(files: str) -> dict[str, Any]:
    done = compose_config(files, "--env-file", os.devnull)
    assert done.returncode == 0, done.stderr
    parsed: dict[str, Any] = json.loads(done.stdout)["services"]
    return parsed


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint(name: str) -> None:
    done = subprocess.run([linter("hadolint"), name], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_shellcheck() -> None:
    """Every script of the repository that begins with a shell's name."""
    files = [REPOSITORY / name for name in project_files()]
    scripts = [path for path in files if path.open("rb").readline().rstrip().endswith(b"sh")]
    assert REPOSITORY / ".ci" / "run" in scripts
    done = subprocess.run([linter("shellcheck"), *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.usefixtures("compose_cli")
@pytest.mark.parametrize("files", FILE_SETS)
@pytest.mark.parametrize("settings", [os.devnull, ".env.example"])
def test_compose_reads_every_combination(files: str, settings: str) -> None:
    done = compose_config(files, "--env-file", settings)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("compose_cli")
def test_the_line_for_a_machine_without_a_gpu() -> None:
    """The one line that .env.example gives, with its # taken off."""
    (line,) = [line for line in (REPOSITORY / ".env.example").read_text().splitlines() if "COMPOSE_FILE=" in line]
    files = line.removeprefix("#COMPOSE_FILE=")
    assert "deploy" not in services(files)["train"]
    assert "deploy" not in services(files)["comfyui"]


@pytest.mark.usefixtures("compose_cli")
def test_train_and_comfyui_ask_for_the_gpu() -> None:
    found = services("docker-compose.yml")
    for name in ("train", "comfyui"):
        (device,) = found[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", -1, ["gpu"])
    assert not any("deploy" in found[name] for name in ("download", "flush"))


@pytest.mark.usefixtures("compose_cli")
@pytest.mark.parametrize("files", FILE_SETS)
def test_every_service_has_as_few_rights_as_it_needs(files: str) -> None:
    for name, service in services(files).items():
        assert service["user"] == ("0:0" if name == "flush" else "1000:1000")
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["init"] is True
        secrets = [secret["source"] for secret in service.get("secrets", [])]
        assert secrets == (["hf_token"] if name == "download" else [])
        assert [port["host_ip"] for port in service.get("ports", [])] == (
            ["127.0.0.1"] if name in ("comfyui", "monitor") else []
        )
        assert not any("TOKEN" in key and key != "HF_TOKEN_PATH" for key in service.get("environment", {}))
        assert not any(volume["bind"].get("create_host_path") for volume in service["volumes"])


@pytest.mark.usefixtures("compose_cli")
def test_every_mounted_folder_is_in_git() -> None:
    """Compose would not make it, and a new clone must run."""
    listed = [str(name) for name in project_files()]
    for service in services("docker-compose.yml").values():
        for volume in service["volumes"]:
            source = Path(volume["source"])
            if source.is_relative_to(REPOSITORY):
                name = f"{source.relative_to(REPOSITORY)}/"
                assert any(path.startswith(name) for path in listed), name


def test_no_script_of_ci_names_an_address() -> None:
    """Which registries a machine asks is that machine's matter."""
    for path in [*(REPOSITORY / ".ci").iterdir(), *(REPOSITORY / "scripts" / "containers").iterdir()]:
        if path.is_file():
            assert "://" not in path.read_text().replace("sqlite://", ""), path


def base_image(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    script = REPOSITORY / "scripts" / "containers" / "base_image.py"
    return subprocess.run([sys.executable, script, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_the_base_images_torch_is_pinned_before_the_projects_pins(tmp_path: Path) -> None:
    """torch and numpy as they are installed; the project's pins of them give way, those of other packages hold."""
    (tmp_path / "constraints.txt").write_text("numpy==0.1\npillow==0.2\nTorch==0.3\ntorchsde==0.4\n")
    pins = base_image("pins", "constraints.txt", folder=tmp_path).stdout.splitlines()
    above, below = pins[: pins.index(next(line for line in pins if line.startswith("#")))], pins[-2:]
    assert any(line.startswith("torch==") for line in above)
    assert any(line.startswith("numpy==") for line in above)
    assert below == ["pillow==0.2", "torchsde==0.4"]


def test_another_torch_after_an_installation_fails_the_build(tmp_path: Path) -> None:
    """`pip install` may replace it in silence; then `base_image.py check` ends the build."""
    before = base_image("pins", folder=tmp_path).stdout
    (tmp_path / "pins.txt").write_text(before)
    assert base_image("check", "pins.txt", folder=tmp_path).returncode == 0

    (tmp_path / "pins.txt").write_text(re.sub(r"(?m)^torch==.*", "torch==0.3", before))
    done = base_image("check", "pins.txt", folder=tmp_path)
    assert done.returncode == 1
    assert "torch: the base image brought 0.3, now " in done.stderr


def test_flush_drops_the_page_cache_where_it_may(tmp_path: Path) -> None:
    """A file of the test's stands in for the kernel's switch."""
    switch = tmp_path / "drop_caches"
    switch.touch()
    flush = REPOSITORY / "scripts" / "containers" / "flush.sh"
    done = subprocess.run([flush, switch], capture_output=True, text=True, check=True)
    assert switch.read_text() == "3\n"
    assert "GiB came back" in done.stdout

    done = subprocess.run([flush, tmp_path / "no-such-folder" / "file"], capture_output=True, text=True, check=True)
    assert "the page cache stays as it is" in done.stdout
