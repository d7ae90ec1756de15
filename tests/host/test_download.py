"""The base weights come from the hub: asked before, checked after, never half a file, and the token stays secret."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save

from fluxbooth.errors import UserError
from fluxbooth.host import files as files_module
from fluxbooth.host import hub as hub_module
from fluxbooth.host.download import download as download_remembering
from fluxbooth.host.download import download_before_training as download_before_training_remembering
from fluxbooth.host.files import DigestMemory, held_alone
from fluxbooth.host.weights import HubFile
from host.local_hub import (
    LICENSED_TOKEN,
    TOKEN_WITHOUT_LICENCE,
    TOKEN_WITHOUT_SCOPE,
    UNKNOWN_TOKEN,
    Fault,
    LocalHub,
    local_hub,
    seen_as_the_hub,
)


def weights(seed: int, values: int) -> bytes:
    """A safetensors file."""
    return bytes(save({"weight": torch.arange(seed, seed + values, dtype=torch.float32)}))


TRANSFORMER = weights(1, 275_000)
VAE = weights(2, 750)
PUBLIC = "someone/public-encoders"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    """A local hub, and an environment in which it is the hub, with no token."""
    with local_hub() as served:
        seen_as_the_hub(served, monkeypatch, tmp_path)
        yield served


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def licensed(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token of an account that may have everything on `hub`."""
    monkeypatch.setenv("HF_TOKEN", LICENSED_TOKEN)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_FIRST_PAUSE", 0.001)


def download(files: list[HubFile], models: Path, *, replace: bool = False, dry_run: bool = False) -> None:
    memory = DigestMemory(models.parent / "digests.json")
    download_remembering(files, models, memory, replace=replace, dry_run=dry_run)


def download_before_training(files: list[HubFile], models: Path) -> None:
    download_before_training_remembering(files, models, DigestMemory(models.parent / "digests.json"))


def files_in(folder: Path) -> list[str]:
    """What a person sees there: not the lock, not what is on its way."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(str(path) for path in paths if not path.name.startswith(".") and path.name != "digests.json")


def refusal_of(files: list[HubFile], models: Path) -> str:
    with pytest.raises(UserError) as raised:
        download(files, models)
    return str(raised.value)


# What comes


@pytest.mark.usefixtures("licensed")
def test_what_is_missing_is_fetched_into_comfyuis_folders(hub: LocalHub, models: Path) -> None:
    transformer = hub.has("checkpoints/flux1-dev.safetensors", TRANSFORMER)
    vae = hub.has("vae/ae.safetensors", VAE)
    download([transformer, vae], models)
    assert (models / "checkpoints/flux1-dev.safetensors").read_bytes() == TRANSFORMER
    assert (models / "vae/ae.safetensors").read_bytes() == VAE
    assert files_in(models) == ["checkpoints/flux1-dev.safetensors", "vae/ae.safetensors"]


def test_a_public_repository_needs_no_token(hub: LocalHub, models: Path) -> None:
    download([hub.has("vae/ae.safetensors", VAE, repository=PUBLIC, gated=False)], models)
    assert files_in(models) == ["vae/ae.safetensors"]


def test_the_token_may_also_lie_in_hugging_faces_own_file(hub: LocalHub, models: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(f"{LICENSED_TOKEN}\n", encoding="utf-8")
    download([hub.has("vae/ae.safetensors", VAE)], models)
    assert files_in(models) == ["vae/ae.safetensors"]


@pytest.mark.usefixtures("licensed")
def test_with_everything_there_nobody_is_asked_and_a_full_disk_is_no_matter(
    hub: LocalHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(models)
    files = [hub.has("vae/ae.safetensors", VAE), hub.has("tokenizer/vocab.json", b"{}", pinned=False)]
    for file in files:
        (models / file.path).parent.mkdir()
        (models / file.path).write_bytes(hub.stored[f"/{file.repository}/resolve/main/{file.file}"].content)
    download(files, models)
    assert hub.asked == hub.asked_of_storage == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    download(files, models)


@pytest.mark.usefixtures("licensed")
def test_only_the_missing_file_is_asked_for(hub: LocalHub, models: Path) -> None:
    transformer, vae = hub.has("flux1-dev.safetensors", TRANSFORMER), hub.has("ae.safetensors", VAE)
    (models / "flux1-dev.safetensors").write_bytes(TRANSFORMER)
    download([transformer, vae], models)
    assert {asked.path for asked in hub.asked} == {"/maker/gated-model/resolve/main/ae.safetensors"}


@pytest.mark.usefixtures("licensed")
def test_a_file_without_a_pinned_digest_comes_as_the_hub_has_it(hub: LocalHub, models: Path) -> None:
    download([hub.has("tokenizer/vocab.json", b'{"toy": 1}', kept="repository", pinned=False)], models)
    assert (models / "tokenizer/vocab.json").read_bytes() == b'{"toy": 1}'


@pytest.mark.usefixtures("licensed")
def test_a_small_file_comes_although_the_hub_redirects_without_saying_its_size(hub: LocalHub, models: Path) -> None:
    download([hub.has("tokenizer/vocab.json", b'{"toy": 1}', kept="cache", pinned=False)], models)
    assert (models / "tokenizer/vocab.json").read_bytes() == b'{"toy": 1}'


@pytest.mark.usefixtures("licensed")
def test_a_small_file_comes_although_the_hub_would_compress_it(hub: LocalHub, models: Path) -> None:
    words = b'"a toy on a beach", ' * 1000
    download([hub.has("tokenizer/merges.txt", words, kept="repository", compresses=True, pinned=False)], models)
    assert (models / "tokenizer/merges.txt").read_bytes() == words


@pytest.mark.usefixtures("licensed")
def test_the_models_folder_is_made_where_it_is_missing(hub: LocalHub, tmp_path: Path) -> None:
    download([hub.has("vae/ae.safetensors", VAE)], tmp_path / "new" / "models")
    assert files_in(tmp_path / "new") == ["models/vae/ae.safetensors"]


# What is refused, each cause with words of its own


def test_without_a_token_the_way_to_one_is_shown(hub: LocalHub, models: Path) -> None:
    said = refusal_of([hub.has("vae/ae.safetensors", VAE)], models)
    assert said.startswith("maker/gated-model: this repository is gated and there is no token.")
    assert "HF_TOKEN" in said
    assert "Accept the licence at https://huggingface.co/maker/gated-model, make a token" in said


def test_a_token_that_the_hub_does_not_know_is_said_to_be_that(
    hub: LocalHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", UNKNOWN_TOKEN)
    said = refusal_of([hub.has("vae/ae.safetensors", VAE)], models)
    assert said == (
        "maker/gated-model: the hub does not know this token: it is mistyped, or was revoked. "
        "Make a new token and set HF_TOKEN."
    )


def test_a_token_copied_with_typographic_quotes_is_said_to_be_none(
    hub: LocalHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", f"“{LICENSED_TOKEN}”")
    assert "Make a new token and set HF_TOKEN" in refusal_of([hub.has("vae/ae.safetensors", VAE)], models)


def test_an_account_without_the_licence_is_told_of_the_licence_alone(
    hub: LocalHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN_WITHOUT_LICENCE)
    said = refusal_of([hub.has("vae/ae.safetensors", VAE)], models)
    assert said.startswith(
        "maker/gated-model: the token's account has not accepted the licence. "
        "Accept the licence at https://huggingface.co/maker/gated-model with the token's account"
    )
    assert "fine-grained" not in said


def test_a_token_without_the_gated_scope_is_told_of_the_scope_alone(
    hub: LocalHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN_WITHOUT_SCOPE)
    said = refusal_of([hub.has("vae/ae.safetensors", VAE)], models)
    assert said.startswith("maker/gated-model: the token may not read gated repositories.")
    assert "Read access to contents of all public gated repos" in said
    assert "licence" not in said


@pytest.mark.usefixtures("licensed")
def test_a_file_that_the_hub_has_not_is_named_with_the_answer(hub: LocalHub, models: Path) -> None:
    hub.has("vae/other.safetensors", VAE)
    said = refusal_of([HubFile("vae/ae.safetensors", "maker/gated-model", "ae.safetensors")], models)
    assert said == "maker/gated-model, ae.safetensors: the hub answered 404 EntryNotFound."


@pytest.mark.usefixtures("licensed")
def test_a_repository_that_the_hub_has_not_is_no_fault_of_the_token(hub: LocalHub, models: Path) -> None:
    said = refusal_of([HubFile("vae/ae.safetensors", "maker/no-such-model", "ae.safetensors")], models)
    assert said == "maker/no-such-model: the hub has no such repository. Check HF_ENDPOINT."


def test_without_a_token_a_repository_may_be_missing_or_not_shown(hub: LocalHub, models: Path) -> None:
    said = refusal_of([HubFile("vae/ae.safetensors", "maker/no-such-model", "ae.safetensors")], models)
    assert said.startswith(
        "maker/no-such-model: the hub has no such repository, or shows it to no one without a token. "
        "Check HF_ENDPOINT. Accept the licence at https://huggingface.co/maker/no-such-model, make a token"
    )
    assert "HF_TOKEN_FILE" in said


@pytest.mark.usefixtures("licensed")
def test_a_hub_out_of_order_is_no_fault_of_the_token(
    hub: LocalHub, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = hub.has("vae/ae.safetensors", VAE)
    hub.out_of_order = True
    with caplog.at_level(logging.WARNING, "fluxbooth"):
        assert refusal_of([file], models) == "maker/gated-model, ae.safetensors: the hub answered 500."
    assert caplog.messages == [f"warning: the hub answers 500; asked again in 0.00{n} s" for n in (2, 4, 8)]


@pytest.mark.usefixtures("licensed")
def test_offline_is_said_to_be_that(hub: LocalHub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        nobody_listens = f"http://127.0.0.1:{closing.getsockname()[1]}"
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        nobody_listens + "/{repo_id}/resolve/{revision}/{filename}",
    )
    said = refusal_of([hub.has("vae/ae.safetensors", VAE)], models)
    assert said == (
        "maker/gated-model: the hub cannot be reached (ConnectionError). "
        "Check the connection and run it again: what has come is kept."
    )


def test_every_repository_is_asked_before_anything_comes_and_all_refusals_are_said_at_once(
    hub: LocalHub, models: Path
) -> None:
    files = [
        hub.has("vae/ae.safetensors", VAE),
        hub.has("flux1-dev.safetensors", TRANSFORMER),
        hub.has("clip_l.safetensors", VAE, repository=PUBLIC, gated=False),
        HubFile("t5.safetensors", "someone/other-encoders", "t5.safetensors"),
    ]
    lines = refusal_of(files, models).splitlines()
    assert [line.split(": ")[1].split(".")[0] for line in lines] == [
        "this repository is gated and there is no token",
        "the hub has no such repository, or shows it to no one without a token",
    ]
    assert hub.methods() == {"HEAD"}
    assert files_in(models) == []


@pytest.mark.usefixtures("licensed")
def test_a_disk_too_small_is_known_before_the_first_byte(
    hub: LocalHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The one thing that cannot be had for real without rights: a small disk. Its free space is given out instead.
    usage = shutil.disk_usage(models)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1024**3 + len(TRANSFORMER) - 1))
    said = refusal_of([hub.has("flux1-dev.safetensors", TRANSFORMER)], models)
    assert "are to be downloaded and 1.0 GiB are free" in said
    assert str(models) in said
    assert hub.methods() == {"HEAD"}

    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1024**3 + len(TRANSFORMER)))
    download([hub.has("flux1-dev.safetensors", TRANSFORMER)], models)
    assert files_in(models) == ["flux1-dev.safetensors"]


# What breaks off, or is not what it should be


@pytest.mark.usefixtures("licensed")
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("dropped", "the hub cannot be reached (ChunkedEncodingError)"),
        ("altered", f"{len(VAE):,} bytes with sha256"),
        ("refused", "the hub answered 503"),
    ],
)
def test_a_fetch_that_goes_on_failing_shows_no_file_and_says_why(
    hub: LocalHub, models: Path, fault: Fault, words: str
) -> None:
    file = hub.has("vae/ae.safetensors", VAE)
    hub.faults["ae.safetensors"] = fault
    assert words in refusal_of([file], models)
    assert files_in(models) == []

    del hub.faults["ae.safetensors"]
    download([file], models)
    assert (models / "vae/ae.safetensors").read_bytes() == VAE


@pytest.mark.usefixtures("licensed")
def test_other_bytes_than_the_pinned_ones_are_shown_beside_them(hub: LocalHub, models: Path) -> None:
    file = hub.has("vae/ae.safetensors", VAE)
    hub.faults["ae.safetensors"] = "altered"
    said = refusal_of([file], models)
    assert f"Allowed: {len(VAE):,} bytes with sha256 {file.sha256}" in said
    assert "nothing was kept" in said


@pytest.mark.usefixtures("licensed")
def test_what_came_before_a_failure_is_kept(hub: LocalHub, models: Path) -> None:
    files = [hub.has("vae/ae.safetensors", VAE), hub.has("flux1-dev.safetensors", TRANSFORMER)]
    hub.faults["flux1-dev.safetensors"] = "refused"
    refusal_of(files, models)
    assert files_in(models) == ["vae/ae.safetensors"]


@pytest.mark.usefixtures("licensed")
@pytest.mark.parametrize("fault", ["dropped", "refused"])
def test_a_fault_that_passes_is_not_noticed(hub: LocalHub, models: Path, fault: Fault) -> None:
    file = hub.has("flux1-dev.safetensors", TRANSFORMER)
    hub.faults["flux1-dev.safetensors"], hub.faulty_answers = fault, 3
    download([file], models)
    assert (models / "flux1-dev.safetensors").read_bytes() == TRANSFORMER


@pytest.mark.usefixtures("licensed")
def test_a_hub_with_another_file_than_the_known_one_is_said_before_the_first_byte(hub: LocalHub, models: Path) -> None:
    file = hub.has("ae.safetensors", VAE)
    hub.has("ae.safetensors", TRANSFORMER)
    lines = refusal_of([file], models).splitlines()
    assert f"the hub now has a file with bytes {len(TRANSFORMER)}" in lines[0]
    assert f"Allowed: sha256 {file.sha256}" in lines[1]
    assert hub.methods() == {"HEAD"}


@pytest.mark.usefixtures("licensed")
def test_what_is_no_safetensors_file_gets_no_such_name(hub: LocalHub, models: Path) -> None:
    page = b"<!doctype html><title>Sign in</title>"
    said = refusal_of([hub.has("ae.safetensors", page, kept="repository", pinned=False)], models)
    assert "what came is no safetensors file" in said
    assert files_in(models) == []


# What is there already


@pytest.mark.usefixtures("licensed")
@pytest.mark.parametrize(
    ("content", "has", "expected"),
    [
        (b"an error page, saved as weights", "has 31 bytes", f"{len(VAE):,} bytes"),
        (VAE[:-1] + b"!", "has the sha256 ", ""),
    ],
)
def test_a_wrong_file_is_named_and_fetched_anew_only_when_told(
    hub: LocalHub, models: Path, content: bytes, has: str, expected: str
) -> None:
    file = hub.has("ae.safetensors", VAE)
    (models / "ae.safetensors").write_bytes(content)
    said = refusal_of([file], models)
    assert said.startswith(f"{models / 'ae.safetensors'}: {has}")
    assert f"Allowed: {expected or file.sha256}, as maker/gated-model has it." in said
    assert "--replace" in said
    assert (models / "ae.safetensors").read_bytes() == content
    assert hub.asked == []
    download([file], models, replace=True)
    assert (models / "ae.safetensors").read_bytes() == VAE


@pytest.mark.usefixtures("licensed")
def test_a_right_file_is_read_once_and_a_fetched_one_not_again(
    hub: LocalHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, fetched = hub.has("mine.safetensors", VAE), hub.has("ae.safetensors", TRANSFORMER)
    (models / "mine.safetensors").write_bytes(VAE)
    download([mine, fetched], models)
    read: list[Path] = []

    def digest_of_file(path: Path) -> str:
        read.append(path)
        return "of other bytes"

    monkeypatch.setattr(files_module, "digest_of_file", digest_of_file)
    download([mine, fetched], models)
    assert read == []
    os.utime(models / "mine.safetensors", ns=(1, 1))
    refusal_of([mine, fetched], models)
    assert set(read) == {models / "mine.safetensors"}


@pytest.mark.usefixtures("licensed")
def test_a_dry_run_says_what_would_come_and_fetches_nothing(
    hub: LocalHub, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = [hub.has("vae/ae.safetensors", VAE), hub.has("flux1-dev.safetensors", TRANSFORMER)]
    (models / "flux1-dev.safetensors").write_bytes(TRANSFORMER)
    download(files, models, dry_run=True)
    assert caplog.messages == [f"would fetch {models / 'vae/ae.safetensors'} from maker/gated-model (0.00 GiB)"]
    assert hub.methods() == {"HEAD"}
    assert list(models.rglob("*")) == [models / "flux1-dev.safetensors"]


@pytest.mark.usefixtures("licensed")
def test_two_downloads_into_one_folder_do_not_meet(hub: LocalHub, models: Path) -> None:
    with held_alone(models):
        assert "another download into this folder is going on" in refusal_of([hub.has("ae.safetensors", VAE)], models)


# The token


@pytest.mark.usefixtures("licensed")
def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(hub: LocalHub, models: Path) -> None:
    download([hub.has("vae/ae.safetensors", VAE)], models)
    assert {asked.authorization for asked in hub.asked} == {f"Bearer {LICENSED_TOKEN}"}
    assert [asked.authorization for asked in hub.asked_of_storage] == [None]


def _dropped(hub: LocalHub) -> None:
    hub.faults["ae.safetensors"] = "dropped"


def _altered(hub: LocalHub) -> None:
    hub.faults["ae.safetensors"] = "altered"


def _out_of_order(hub: LocalHub) -> None:
    hub.out_of_order = True


def _as_it_should_be(_: LocalHub) -> None:
    pass


@pytest.mark.parametrize(
    ("token", "happens"),
    [
        (LICENSED_TOKEN, _as_it_should_be),
        (LICENSED_TOKEN, _dropped),
        (LICENSED_TOKEN, _altered),
        (LICENSED_TOKEN, _out_of_order),
        (UNKNOWN_TOKEN, _as_it_should_be),
        (TOKEN_WITHOUT_LICENCE, _as_it_should_be),
    ],
)
def test_the_token_stands_in_no_message_no_traceback_no_log_and_no_file(
    hub: LocalHub,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    token: str,
    happens: Callable[[LocalHub], None],
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", token)
    files = [hub.has("vae/ae.safetensors", VAE)]
    happens(hub)
    tracebacks = ""
    try:
        download(files, models)
    except UserError as error:
        tracebacks = "".join(traceback.format_exception(error))
    download_before_training(files, models)

    assert {asked.authorization for asked in hub.asked} == {f"Bearer {token}"}  # it was there to be leaked
    written = [path.read_bytes().decode(errors="replace") for path in models.rglob("*") if path.is_file()]
    for text in (tracebacks, caplog.text, *capfd.readouterr(), *written):
        assert token not in text


# Before a training


def test_a_refusal_before_a_training_is_written_down_and_not_raised(hub: LocalHub, models: Path) -> None:
    download_before_training([hub.has("vae/ae.safetensors", VAE)], models)
    assert files_in(models) == ["download-refused.txt"]
    assert "this repository is gated and there is no token" in (models / "download-refused.txt").read_text("utf-8")


def test_the_refusal_goes_away_once_the_download_succeeds(
    hub: LocalHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [hub.has("vae/ae.safetensors", VAE)]
    download_before_training(files, models)
    monkeypatch.setenv("HF_TOKEN", LICENSED_TOKEN)
    download_before_training(files, models)
    assert files_in(models) == ["vae/ae.safetensors"]


# The command


def run_download(hub_url: str, models: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run `fluxbooth download` as a user does, without a token, with `hub_url` as HF_ENDPOINT."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_"))}
    return subprocess.run(
        [sys.executable, "-m", "fluxbooth", "download", "--models-dir", str(models), *flags],
        env=environment | {"HF_ENDPOINT": hub_url, "HF_HOME": str(models.parent / "home")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_asks_the_hub_of_hf_endpoint_and_says_both_refusals(hub: LocalHub, models: Path) -> None:
    hub.has("flux1-dev.safetensors", TRANSFORMER, repository="black-forest-labs/FLUX.1-dev")
    done = run_download(hub.url, models)
    assert done.returncode == 1
    assert done.stderr.startswith("fluxbooth: black-forest-labs/FLUX.1-dev: this repository is gated")
    assert "comfyanonymous/flux_text_encoders: the hub has no such repository" in done.stderr
    assert "Traceback" not in done.stderr
    assert files_in(models) == []


def test_before_a_training_the_command_succeeds_and_leaves_the_refusal(hub: LocalHub, models: Path) -> None:
    hub.has("flux1-dev.safetensors", TRANSFORMER, repository="black-forest-labs/FLUX.1-dev")
    done = run_download(hub.url, models, "--before-train")
    assert done.returncode == 0
    assert "this repository is gated and there is no token" in done.stdout
    assert files_in(models) == ["download-refused.txt"]
