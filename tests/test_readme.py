"""What the README says is run: its commands, its links, its tables."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import parse_args

from fluxbooth.cli import main

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line and not line.startswith("#")
]


def commands_of(program: str) -> list[str]:
    return [command for command in COMMANDS if command.startswith(program + " ")]


def test_every_command_of_the_readme_is_looked_at_below() -> None:
    looked_at = [
        command
        for program in ("make", "fluxbooth", "docker compose", "torchrun", "printf", "echo")
        for command in commands_of(program)
    ]
    assert sorted(looked_at) == sorted(COMMANDS)
    assert len(COMMANDS) >= 9


@pytest.mark.parametrize("command", commands_of("make"))
def test_a_make_target_is_there(command: str) -> None:
    """`make demo` and `make test` are run by tests/test_demo.py and by whoever runs this."""
    target = command.split()[1]
    assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.fixture
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(REPOSITORY)
    for folder in ("models", "runs", "cache"):
        monkeypatch.setenv(f"FLUXBOOTH_{folder.upper()}_DIR", str(tmp_path / folder))


@pytest.mark.slow
@pytest.mark.usefixtures("_own_folders")
def test_the_fluxbooth_commands_run_in_the_order_of_the_readme(tmp_path: Path) -> None:
    # `make demo` stands before them and leaves this LoRA.
    assert main(["train", "--model", "miniature", "--max_train_steps", "1", "--output_name", "demo"]) == 0
    commands = [shlex.split(command)[1:] for command in commands_of("fluxbooth")]
    assert {command[0] for command in commands} == {"check", "generate", "report", "score"}
    more = {"generate": ["--out", str(tmp_path / "pictures")], "score": ["--seeds", "2", "--steps", "2"]}
    for command in commands:
        assert main([*command, *more.get(command[0], [])]) == 0, command
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


@pytest.mark.parametrize("command", commands_of("docker compose"))
def test_a_compose_command_names_a_service_and_flags_that_are_there(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The containers themselves are run by tests/containers."""
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    words = [word for word in shlex.split(command)[2:] if word not in ("run", "up", "--rm")]
    assert words[0] in services
    flags = [word for word in words[1:] if word.startswith("--")]
    if flags:
        with pytest.raises(SystemExit):
            main([words[0], "--help"])
        known = capsys.readouterr().out
        assert all(flag in known for flag in flags)


@pytest.mark.parametrize("command", commands_of("torchrun"))
def test_a_launch_is_understood_and_starts_a_training(command: str) -> None:
    """The launch itself is tried by tests/training/test_machines.py."""
    launch = parse_args(shlex.split(command)[1:])  # type: ignore[no-untyped-call]
    assert (launch.training_script, launch.training_script_args, launch.no_python) == ("fluxbooth", ["train"], True)


@pytest.mark.parametrize("command", commands_of("printf") + commands_of("echo"))
def test_a_line_for_env_sets_what_the_example_explains(command: str, tmp_path: Path) -> None:
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True)
    lines = (tmp_path / ".env").read_text(encoding="utf-8").splitlines()
    example = (REPOSITORY / ".env.example").read_text(encoding="utf-8")
    assert lines
    for line in lines:
        name, _, value = line.partition("=")
        assert f"#{name}=" in example
        assert value
        assert name != "COMPOSE_FILE" or all((REPOSITORY / file).is_file() for file in value.split(":"))


def test_the_trainings_shown_are_the_recipes_own(capsys: pytest.CaptureFixture[str]) -> None:
    playbook = (REPOSITORY / "recipes/playbook.toml").read_text(encoding="utf-8")
    assert "rank 256, Prodigy, 100 epochs" in README
    assert 'output_name = "flux_dreambooth"' in playbook
    assert "network_dim = 256" in playbook
    assert "max_train_epochs = 100" in playbook


def test_every_link_and_picture_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    assert len(links) >= 8
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_the_table_of_commands_is_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    in_help = set(re.findall(r"^    (\w+)(?: |$)", capsys.readouterr().out, flags=re.MULTILINE))
    assert set(re.findall(r"^\| `fluxbooth (\w+)` \|", README, flags=re.MULTILINE)) == in_help
