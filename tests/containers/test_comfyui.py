"""The service `comfyui` around a stand-in for ComfyUI.

The stand-in proves the container: image, user, mounts, network, health check, stop. It proves nothing about ComfyUI
itself, which cannot be had on every machine that runs these tests.
"""

import json
import socket
import time
import urllib.request
from typing import Any

import pytest

from containers.checkout import Checkout

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def comfyui(checkout: Checkout) -> Checkout:
    """The service, up and healthy."""
    checkout.compose("up", "--detach", "--wait", "comfyui")
    return checkout


def page(comfyui: Checkout, path: str) -> Any:
    """The JSON that the published port answers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{comfyui.settings['COMFYUI_PORT']}{path}", timeout=10) as answer:
        return json.load(answer)


def test_the_page_answers_on_this_machine_alone(comfyui: Checkout) -> None:
    """ComfyUI has no password: another address of the same machine must not answer."""
    port = comfyui.settings["COMFYUI_PORT"]
    assert page(comfyui, "/system_stats")["devices"] == []
    assert comfyui.compose("port", "comfyui", "8188").stdout.strip() == f"127.0.0.1:{port}"
    (container,) = comfyui.containers("comfyui")
    networks = container["NetworkSettings"]["Networks"].values()
    for gateway in {network["Gateway"] for network in networks} - {""}:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((gateway, int(port)), timeout=5)


def test_flags_reach_comfyui(comfyui: Checkout) -> None:
    """The CPU file's --cpu, and the places of what is kept."""
    flags = page(comfyui, "/system_stats")["system"]["argv"]
    assert flags[-1] == "--cpu"
    assert flags[flags.index("--database-url") + 1] == "sqlite:////comfyui/user/comfyui.db"


@pytest.mark.parametrize(
    ("memory", "asked", "set_by_itself"),
    [
        ("[N/A]", "", True),  # a DGX Spark
        ("24564 MiB", "", False),
        ("[N/A]", "--gpu-only", False),
        ("[N/A]", "--cache-none", True),
    ],
)
def test_models_stay_on_the_gpu_where_it_shares_its_memory(
    comfyui: Checkout, memory: str, asked: str, set_by_itself: bool
) -> None:
    """With stand-ins for nvidia-smi, which says so, and for Python, which repeats its flags."""
    start = (
        "mkdir -p /tmp/stand-ins && cd /tmp/stand-ins"
        f""" && printf '#!/bin/sh\necho "{memory}"\n' >nvidia-smi && printf '#!/bin/sh\necho "$@"\n' >python3"""
        f" && chmod +x nvidia-smi python3 && PATH=/tmp/stand-ins:$PATH start-comfyui {asked}"
    )
    flags = comfyui.compose("exec", "-T", "comfyui", "bash", "-c", start).stdout.splitlines()[-1].split()
    assert ({"--highvram", "--disable-mmap"} <= set(flags)) == set_by_itself
    assert asked in flags or not asked


def test_a_lora_shows_as_soon_as_it_is_there(comfyui: Checkout) -> None:
    loras = comfyui.folder / "models" / "loras"
    assert "new.safetensors" not in page(comfyui, "/models/loras")
    (loras / "new.safetensors").touch()
    assert "new.safetensors" in page(comfyui, "/models/loras")
    (loras / "new.safetensors").unlink()


def test_it_writes_pictures_and_settings_and_nothing_else(comfyui: Checkout) -> None:
    """Workflows of this project are read-only; what is saved under another name lies beside them."""
    code = (
        "from pathlib import Path\n"
        "for folder in ('/comfyui/output', '/comfyui/user', '/comfyui/user/default/workflows', "
        "'/comfyui/user/default/workflows/fluxbooth', '/opt/comfyui', '/opt/comfyui/models/checkpoints', "
        "'/opt/comfyui/models/loras', '/tmp/input'):\n"
        "    try:\n"
        "        Path(folder, 'probe').touch()\n"
        "        print(folder)\n"
        "    except OSError:\n"
        "        pass"
    )
    written = comfyui.compose("exec", "-T", "comfyui", "python3", "-c", code).stdout.splitlines()
    assert written == ["/comfyui/output", "/comfyui/user", "/comfyui/user/default/workflows", "/tmp/input"]
    assert (comfyui.folder / "output" / "probe").stat().st_uid == comfyui.uid


def test_the_first_visit_opens_no_dialog(comfyui: Checkout) -> None:
    settings = comfyui.folder / "comfyui_user" / "default" / "comfy.settings.json"
    assert json.loads(settings.read_text()) == {"Comfy.TutorialCompleted": True}
    assert settings.stat().st_uid == comfyui.uid


def test_it_cannot_reach_other_machines(comfyui: Checkout) -> None:
    """No answer would find back in: the published port's network does not masquerade, the other one is internal."""
    networks = json.loads(comfyui.compose("config", "--format", "json").stdout)["networks"]
    assert networks["inside"]["internal"] is True
    assert networks["page"]["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}


def test_the_trainer_can_ask_it_for_memory(comfyui: Checkout, trainer: Checkout) -> None:
    code = "import urllib.request as r; print('>', r.urlopen('http://comfyui:8188/system_stats', timeout=10).status)"
    assert trainer.python("train", code) == ["200"]


def test_it_stops_within_seconds(comfyui: Checkout) -> None:
    """As process 1 it would not hear SIGTERM and be killed after ten seconds. This test ends what those above use."""
    start = time.monotonic()
    comfyui.compose("stop", "comfyui")
    assert time.monotonic() - start < 5
    (container,) = comfyui.containers("comfyui")
    assert container["State"]["ExitCode"] == 128 + 15


def test_folders_of_another_user_are_named(checkout: Checkout) -> None:
    """The commonest mistake: no PUID in .env, and the folders belong to someone else than 1000."""
    run = checkout.compose("run", "--rm", "-T", "--user", "54321", "comfyui", ok=False)
    assert run.returncode == 1
    assert "comfyui: /comfyui/user cannot be written by 54321:0. Set PUID and PGID in .env" in run.stderr
