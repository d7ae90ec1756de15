"""The encode phase: encoded once, found by what it is and not by where it stood, and again when anything changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import visit_of
from PIL import Image, ImageOps

from fluxbooth.config.specs import PictureSpec
from fluxbooth.dataset.plan import Visit
from fluxbooth.errors import UserError
from fluxbooth.flux.architecture import Architecture
from fluxbooth.host.memory import GIB
from fluxbooth.host.weights import BaseWeights
from fluxbooth.training.cache import EncodedCache
from fluxbooth.training.encode import EncodedVisits, encode_visits, pictures_at_once

Encode = Callable[..., EncodedVisits]


@pytest.fixture
def encode(weights: BaseWeights, architecture: Architecture, tmp_path: Path) -> Encode:
    """Encode visits into one cache of this test."""

    def encode(
        *visits: Visit,
        dtype: torch.dtype = torch.float32,
        prior_loss_weight: float = 1.0,
        plain_captions: bool = False,
    ) -> EncodedVisits:
        cache, cpu = tmp_path / "cache", torch.device("cpu")
        return encode_visits(visits, weights, architecture, cache, prior_loss_weight, dtype, cpu, plain_captions)

    return encode


def inodes(tmp_path: Path, kind: str) -> dict[Path, int]:
    """A file that is written anew is another file under the same name."""
    return {path: path.stat().st_ino for path in (tmp_path / "cache" / kind).glob("*.safetensors")}


def entries(tmp_path: Path, kind: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / kind).glob("*.safetensors")}


@pytest.fixture
def pictures(make_concept: Callable[..., Path]) -> list[Path]:
    return sorted(make_concept("toy", [(64, 48)] * 3).glob("*.png"))


def test_a_second_run_encodes_nothing(encode: Encode, pictures: list[Path], tmp_path: Path) -> None:
    visits = [visit_of(path) for path in pictures]
    encode(*visits)
    first = inodes(tmp_path, "latents") | inodes(tmp_path, "text")
    encode(*visits)
    assert inodes(tmp_path, "latents") | inodes(tmp_path, "text") == first
    assert len(entries(tmp_path, "latents")) == 3
    assert len(entries(tmp_path, "text")) == 1, "one caption is encoded once, whatever pictures it stands under"


def test_each_picture_gets_its_own_latents_whatever_the_order(encode: Encode, pictures: list[Path]) -> None:
    visits = [visit_of(path, caption=f"toy {path.stem}") for path in pictures]
    together = encode(*visits).batch(tuple(reversed(visits)))
    for row, visit in enumerate(reversed(visits)):
        alone = encode(visit).batch((visit,))
        assert torch.equal(together.latents[row], alone.latents[0])
        assert torch.equal(together.prompt_embeds[row], alone.prompt_embeds[0])
        assert torch.equal(together.pooled_prompt_embeds[row], alone.pooled_prompt_embeds[0])
    assert together.latents.shape == (3, 16, 6, 6)
    assert not torch.equal(together.prompt_embeds[0], together.prompt_embeds[1])


def test_another_picture_under_the_same_name_is_encoded_again(encode: Encode, pictures: list[Path]) -> None:
    before = visit_of(pictures[0])
    old = encode(before).batch((before,)).latents
    pictures[0].write_bytes(pictures[1].read_bytes())
    after = visit_of(pictures[0])
    assert not torch.equal(encode(after).batch((after,)).latents, old)


def test_crop_flip_and_number_format_have_latents_of_their_own(
    encode: Encode, pictures: list[Path], tmp_path: Path
) -> None:
    visit = visit_of(pictures[0])
    moved = replace(visit, item=replace(visit.item, placement=replace(visit.item.placement, crop=(0, 0, 48, 48))))
    encode(visit, moved, replace(visit, flipped=True))
    assert len(entries(tmp_path, "latents")) == 3
    encode(visit, dtype=torch.bfloat16)
    assert len(entries(tmp_path, "latents")) == 4
    assert len(entries(tmp_path, "text")) == 2


def test_another_caption_is_encoded_and_the_old_one_is_not_taken_for_it(encode: Encode, pictures: list[Path]) -> None:
    old, new = visit_of(pictures[0], "tjtoy toy"), visit_of(pictures[0], "tjtoy toy on a desk")
    first = encode(old).batch((old,))
    second = encode(new).batch((new,))
    assert not torch.equal(first.prompt_embeds, second.prompt_embeds)
    assert torch.equal(first.latents, second.latents)


@pytest.mark.parametrize(
    ("part", "latents", "texts"),
    [("vae", 2, 1), ("clip", 1, 2), ("t5", 1, 2), ("clip_tokenizer", 1, 2), ("t5_tokenizer", 1, 2)],
)
def test_another_vae_encoder_or_tokenizer_is_another_key(
    weights: BaseWeights,
    architecture: Architecture,
    pictures: list[Path],
    tmp_path: Path,
    part: str,
    latents: int,
    texts: int,
) -> None:
    visit, original, changed = visit_of(pictures[0]), getattr(weights, part), tmp_path / "changed"
    if original.is_dir():
        shutil.copytree(original, changed)
        config = changed / "tokenizer_config.json"
        config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    else:
        changed.write_bytes(original.read_bytes()[:-2] + b"\x11\x22")
    for path in (original, changed):
        others = BaseWeights(**{**vars(weights), part: path})
        encode_visits([visit], others, architecture, tmp_path / "cache", 1.0, torch.float32, torch.device("cpu"))
    assert (len(entries(tmp_path, "latents")), len(entries(tmp_path, "text"))) == (latents, texts)


def test_a_picture_that_changed_after_it_was_read_is_refused_and_not_cached(
    encode: Encode, pictures: list[Path], tmp_path: Path
) -> None:
    """Under the digest of the old picture the cache would hold the new one's latents, for every later run."""
    visit = visit_of(pictures[0])
    pictures[0].write_bytes(pictures[1].read_bytes())
    with pytest.raises(UserError, match="changed since this run was prepared"):
        encode(visit)
    assert entries(tmp_path, "latents") == {}


@pytest.mark.parametrize("kind", ["latents", "text"])
def test_an_entry_that_was_damaged_is_made_again(
    encode: Encode, pictures: list[Path], tmp_path: Path, kind: str
) -> None:
    visit = visit_of(pictures[0])
    before = encode(visit).batch((visit,))
    (entry,) = entries(tmp_path, kind)
    entry.write_bytes(entry.read_bytes()[:40])
    after = encode(visit).batch((visit,))
    assert torch.equal(before.latents, after.latents)
    assert torch.equal(before.prompt_embeds, after.prompt_embeds)


def test_plain_captions_are_encoded_when_asked_for(encode: Encode, pictures: list[Path], tmp_path: Path) -> None:
    visits = (visit_of(pictures[0], "tjtoy toy on a desk"), visit_of(pictures[1], "toy in the snow", is_reg=True))
    encode(*visits)
    assert len(entries(tmp_path, "text")) == 2
    encoded = encode(*visits, plain_captions=True)
    assert len(entries(tmp_path, "text")) == 3
    of_t5, of_clip = encoded.class_texts(visits)
    plain = visit_of(pictures[0], "toy on a desk"), visits[1]
    asked = encode(*plain).batch(plain)
    assert torch.equal(of_t5, asked.prompt_embeds)
    assert torch.equal(of_clip, asked.pooled_prompt_embeds)


def test_regularization_pictures_weigh_what_was_asked(encode: Encode, pictures: list[Path]) -> None:
    visits = (visit_of(pictures[0]), visit_of(pictures[1], is_reg=True))
    assert encode(*visits, prior_loss_weight=0.25).batch(visits).loss_weights.tolist() == [1.0, 0.25]


def test_a_flipped_picture_is_the_mirror_image_before_encoding(
    encode: Encode, make_concept: Callable[..., Path]
) -> None:
    """A picture that is symmetric has the same latents either way; this one is not."""
    (path,) = make_concept("lopsided", [(64, 48)]).glob("*.png")
    lopsided = Image.new("RGB", (64, 48), "red")
    lopsided.paste("blue", (0, 0, 20, 48))
    lopsided.save(path)
    flipped = visit_of(path, flipped=True)
    ImageOps.mirror(lopsided).save(path.with_name("mirrored.png"))
    mirrored = visit_of(path.with_name("mirrored.png"))
    plain = visit_of(path)
    encoded = encode(flipped, mirrored, plain)
    assert torch.allclose(encoded.batch((flipped,)).latents, encoded.batch((mirrored,)).latents, atol=1e-5)
    assert not torch.allclose(encoded.batch((flipped,)).latents, encoded.batch((plain,)).latents, atol=1e-2)


def changed(visit: Visit, variant: int = 0, mask: Path | None = None, **spec: object) -> Visit:
    picture_spec = PictureSpec(**spec)  # type: ignore[arg-type]
    digest = hashlib.sha256(mask.read_bytes()).hexdigest() if mask else ""
    item = replace(visit.item, picture_spec=picture_spec, mask=mask, mask_digest=digest)
    return replace(visit, item=item, variant=variant)


def test_what_changes_the_picture_is_encoded_apart_and_what_does_not_is_not(
    encode: Encode, pictures: list[Path], tmp_path: Path
) -> None:
    plain = visit_of(pictures[0])
    variants = [changed(plain, number, color_aug=True, variants=2) for number in (0, 1)]
    others = [changed(plain, interpolation="nearest"), changed(plain, mask=pictures[1])]
    encode(plain, *variants, *others)
    assert len(entries(tmp_path, "latents")) == 5
    encode(plain, changed(plain, variant=1), changed(plain, flip_aug=True))
    assert len(entries(tmp_path, "latents")) == 5


def test_a_mask_comes_with_its_latents_and_ones_without(encode: Encode, pictures: list[Path], tmp_path: Path) -> None:
    half = Image.new("L", (64, 48), 255)
    half.paste(0, (0, 0, 32, 48))
    half.save(tmp_path / "half.png")
    plain = visit_of(pictures[0])
    masked = changed(plain, mask=tmp_path / "half.png")
    batch = encode(plain, masked).batch((plain, masked))
    assert batch.masks.shape == (2, 1, 6, 6)
    assert (batch.masks[0] == 1).all()
    assert (batch.masks[1, 0, :, :3] == 0).all()
    assert (batch.masks[1, 0, :, 3:] == 1).all()
    assert torch.equal(batch.latents[0], batch.latents[1]), "the network sees all of the picture"


def test_what_no_run_has_used_for_a_month_is_deleted(encode: Encode, pictures: list[Path], tmp_path: Path) -> None:
    used, unused = visit_of(pictures[0]), visit_of(pictures[1], caption="sparkgpu gpu")
    encode(used, unused)
    part = tmp_path / "cache/latents/.killed.safetensors.1234.part"
    part.touch()
    for file in (tmp_path / "cache").rglob("*"):
        os.utime(file, (0, 0))
    encode(used)
    assert len(entries(tmp_path, "latents")) == len(entries(tmp_path, "text")) == 1
    assert not part.exists()


def test_a_cleared_cache_is_encoded_again(encode: Encode, pictures: list[Path], tmp_path: Path) -> None:
    encode(visit_of(pictures[0]))
    EncodedCache(tmp_path / "cache").clear()
    assert entries(tmp_path, "latents") == entries(tmp_path, "text") == {}
    encode(visit_of(pictures[0]))
    assert len(entries(tmp_path, "latents")) == 1


def test_a_touched_picture_is_not_encoded_again(encode: Encode, pictures: list[Path], tmp_path: Path) -> None:
    encode(visit_of(pictures[0]))
    (before,) = entries(tmp_path, "latents")
    os.utime(pictures[0], (0, 0))
    encode(visit_of(pictures[0]))
    assert set(entries(tmp_path, "latents")) == {before}


def test_two_processes_may_fill_one_cache(pictures: list[Path], tmp_path: Path) -> None:
    """Both encode the same visits at once; what either wrote is whole and the same."""
    code = (
        "import sys, torch; from pathlib import Path; from builders import visit_of\n"
        "from fluxbooth.flux.architecture import architecture_of\n"
        "from fluxbooth.flux.miniature import miniature_weights\n"
        "from fluxbooth.training.encode import encode_visits\n"
        "torch.set_num_threads(1); weights = miniature_weights()\n"
        "visits = [visit_of(Path(name)) for name in sys.argv[2:]]\n"
        "encoded = encode_visits(visits, weights, architecture_of(weights.transformer), Path(sys.argv[1]), 1.0,\n"
        "                        torch.float32, torch.device('cpu'))\n"
        "print(encoded.batch(tuple(visits)).latents.double().sum().item())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache"), *map(str, pictures)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(2)]
    first, second = (process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert first == second
    assert len(entries(tmp_path, "latents")) == 3


def test_a_cache_that_cannot_be_cleared_is_said(
    encode: Encode, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(visit_of(pictures[0]))

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", refused)
    with pytest.raises(UserError, match="latents: cannot be cleared: Permission denied"):
        EncodedCache(tmp_path / "cache").clear()


def test_as_many_pictures_are_encoded_together_as_a_gpu_has_room_for() -> None:
    """Of 1024 x 1024 pixels each takes about 2 GiB in bfloat16."""
    pixels = 1024 * 1024
    together = [pictures_at_once(pixels, torch.bfloat16, int(gib * GIB)) for gib in (0, 3, 7, 11, 80)]
    assert together == [1, 1, 3, 4, 4]
    assert pictures_at_once(4 * pixels, torch.bfloat16, 11 * GIB) == 1
