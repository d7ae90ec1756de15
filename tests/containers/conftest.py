"""A copy of this checkout for the tests to work in.

They never use the checkout itself: they would write into its models/ and runs/, and its .env would be theirs.
They need an engine (docker info answers) and FLUXBOOTH_TEST_BASE_IMAGE, an image to build on: `.ci/make_test_base.sh`
makes one, `.ci/run` does both. Without them they are skipped, and pytest -rs says which is missing.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from containers.checkout import CPU_FILES, REPOSITORY, STAND_IN, Checkout, docker, free_port, project_files


@pytest.fixture(scope="session")
def compose_cli() -> None:
    """Skips where the `docker compose` command is missing; reading compose files takes no engine."""
    if not shutil.which("docker"):
        pytest.skip("no docker command on this machine")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("the docker command here has no compose")


@pytest.fixture(scope="session")
def base_image(compose_cli: None) -> str:
    """The image that the Dockerfiles are built on here."""
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers on this machine")
    image = os.environ.get("FLUXBOOTH_TEST_BASE_IMAGE")
    if not image:
        pytest.skip("FLUXBOOTH_TEST_BASE_IMAGE names no image to build on (.ci/make_test_base.sh makes one)")
    docker("image", "inspect", image)  # named but missing is a failure, not a skip
    return image


@pytest.fixture(scope="session")
def checkout(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """The files that git knows or would add, at another place, owned by another user where this one is root."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in project_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, folder / name)

    uid, gid = (12345, 12346) if os.getuid() == 0 else (os.getuid(), os.getgid())
    if os.getuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, gid, follow_symlinks=False)

    project = os.environ.get("FLUXBOOTH_TEST_PROJECT", f"fluxbooth-test-{os.getpid()}")
    settings = {
        "COMPOSE_FILE": CPU_FILES,
        "COMPOSE_PROJECT_NAME": project,
        "BASE_IMAGE": base_image,
        "COMFYUI_CONTEXT": f"./{STAND_IN}",
        "COMFYUI_PORT": str(free_port()),
        "MONITOR_PORT": str(free_port()),
        "PUID": str(uid),
        "PGID": str(gid),
    }
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    copy = Checkout(folder, project, uid, gid, settings)
    try:
        yield copy
    finally:
        copy.compose("--profile", "*", "down", "--remove-orphans", "--timeout", "5", ok=False)
        images = docker("image", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={project}").split()
        if images:
            docker("image", "rm", "--force", *set(images))


@pytest.fixture(scope="session")
def trainer(checkout: Checkout) -> Checkout:
    """The checkout with the trainer's image built."""
    checkout.compose("build", "train")
    return checkout
