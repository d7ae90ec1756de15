"""A checkout with settings of its own, and Docker Compose in it."""

import json
import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
STAND_IN = "tests/containers/comfyui_stand_in"
CPU_FILES = "docker-compose.yml:docker-compose.cpu.yml"

# How the names of docker-compose.yml's settings begin.
SETTINGS = ("FLUXBOOTH_", "COMPOSE_", "COMFYUI_", "MONITOR_", "PUID", "PGID", "HF_", "BASE_IMAGE")


@dataclass(frozen=True)
class Checkout:
    """A folder with the project's files, all owned by `uid`:`gid`, as which its containers run.

    `settings` are the lines of its .env; `project` is Compose's name for what runs from it.
    """

    folder: Path
    project: str
    uid: int
    gid: int
    settings: Mapping[str, str]

    def compose(
        self, *arguments: str, env: Mapping[str, str] | None = None, ok: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker compose ARGUMENTS`; with `ok` a failure fails the test and shows what was printed."""
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=self.folder,
            env=callers_environment() | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if ok and done.returncode:
            said = (done.stdout + done.stderr)[-4000:]  # a build before it can be long
            pytest.fail(f"docker compose {' '.join(arguments)}: exit {done.returncode}\n{said}")
        return done

    def python(self, service: str, code: str, env: Mapping[str, str] | None = None) -> list[str]:
        """The lines that `code` prints when Python runs it in a new container of `service`, alone.

        Each printed line has to begin with "> ", which tells it from those of a build before.
        """
        run = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "python3", service, "-c", code)
        lines = self.compose(*run, env=env).stdout.splitlines()
        return [line.removeprefix("> ") for line in lines if line.startswith("> ")]

    def containers(self, service: str) -> list[dict[str, Any]]:
        """`docker inspect` of the service's containers, stopped ones too."""
        ids = self.compose("ps", "--all", "--quiet", service).stdout.split()
        return [json.loads(docker("inspect", name))[0] for name in ids]


def callers_environment() -> dict[str, str]:
    """This process's environment without settings of docker-compose.yml, which would win over the .env of a test."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}


def project_files() -> list[Path]:
    """The files of this project, relative to it: those git knows and those it would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    # A file that is deleted and not yet committed is listed still.
    return [Path(name) for name in listed.split("\0") if name and (REPOSITORY / name).is_file()]


def docker(*arguments: str) -> str:
    """What `docker ARGUMENTS` prints; a failure fails the test."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.fail(f"docker {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def docker_logs(container: str) -> str:
    """What `container` has printed so far, on both of its streams."""
    command = ["docker", "logs", container]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


def free_port() -> int:
    """A TCP port of this machine that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
