"""A page for the browser that shows every picture and caption as the network sees it; one file, no network needed."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jinja2 import Environment, PackageLoader
from PIL import Image, ImageDraw

from fluxbooth.dataset.caption_findings import whole_captions
from fluxbooth.dataset.findings import Finding
from fluxbooth.dataset.items import Item
from fluxbooth.dataset.pictures import open_upright
from fluxbooth.dataset.plan import Visit
from fluxbooth.errors import Problems
from fluxbooth.flux.device import release_memory
from fluxbooth.flux.parts import load_tokenizers, load_vae
from fluxbooth.flux.pixels import decode_latents
from fluxbooth.host.files import write_text
from fluxbooth.host.folders import check_writable
from fluxbooth.training.cache import EncodedCache
from fluxbooth.training.caption_lengths import ReadCaption, read_captions
from fluxbooth.training.encode import encode_visits
from fluxbooth.training.prepare import Prepared

_log = logging.getLogger("fluxbooth")
_LARGEST = 480
"""Pixels of a picture's longer side on the page."""
_EXACT_UP_TO = 160
"""Pixels of a picture that is kept as it is, and not as a JPEG."""
_SHOWN_OF_A_CONCEPT = 100
"""Pictures of a concept that are on the page: a thousand would weigh a hundred megabytes."""
_VEIL = (128, 128, 128)


@dataclass(frozen=True)
class _Reading:
    """A caption as one encoder reads it."""

    encoder: str
    tokens: int
    """What the caption takes."""
    limit: int
    """What the encoder reads."""
    read: Sequence[str]
    cut: Sequence[str]


@dataclass(frozen=True)
class _Card:
    """One picture on the page; pictures are addresses with the bytes in them."""

    name: str
    original: str
    seen: str
    is_exact: bool
    """Whether `seen` is small and shows every pixel as it is."""
    mask: str
    kept: float
    size: str
    marks: Sequence[str]
    findings: Sequence[str]
    readings: Sequence[_Reading]


def write_sheet(prepared: Prepared, findings: Sequence[Finding], path: Path) -> None:
    """Write the page, whole or not at all; what the cache lacks of the pictures is encoded first, by the model's VAE.

    Args:
        prepared: the run whose pictures are shown, the first hundred of each concept.
        findings: of which those on a picture or its caption stand beside it, and the other warnings at the top.
        path: the HTML file.

    Raises:
        UserError: when the file cannot be written, and when a picture has changed meanwhile.
    """
    problems = Problems()
    check_writable(path.absolute().parent, problems)
    if path.is_dir():
        problems.add("is a folder", where=str(path), allowed="a file's name, such as sheet.html")
    problems.raise_if_any()
    of_concept: dict[str, list[Item]] = {}
    for item in {item.path: item for item in (*prepared.items, *prepared.composites)}.values():
        of_concept.setdefault(_title(item), []).append(item)
    shown = {title: items[:_SHOWN_OF_A_CONCEPT] for title, items in of_concept.items()}
    seen = _seen_pictures(prepared, [item for items in shown.values() for item in items])
    readings = _readings(prepared, [item for items in shown.values() for item in items])
    at_place: dict[str, list[str]] = {}
    for finding in findings:
        at_place.setdefault(finding.where, []).append(_sentences(finding))
    groups, placed = [], set()
    for title, items in shown.items():
        cards = []
        for item in items:
            places = dict.fromkeys((str(item.path), str(item.path.with_suffix(item.caption_extension))))
            placed |= set(places)
            said = [line for place in places for line in at_place.get(place, ())]
            cards.append(_card(item, *seen[item.path], said, readings))
        number = len(of_concept[title])
        more = f", of which {len(items)} are shown" if number > len(items) else ""
        about = f"{number:,} picture{'' if number == 1 else 's'}{more}, from {items[0].path.parent}"
        groups.append({"title": title, "about": about, "cards": cards})
    environment = Environment(
        loader=PackageLoader("fluxbooth.training"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("sheet.html.j2").render(
        groups=groups,
        warnings=[str(one) for one in findings if one.level == "warning" and one.where not in placed],
        model=prepared.weights.name,
        samples=prepared.plan.samples_per_epoch,
        steps=prepared.steps,
    )
    write_text(path, page)
    _log.info("wrote %s", path)


def _title(item: Item) -> str:
    if item.also_shows:
        return "two concepts side by side"
    return f"{item.concept}, regularization" if item.is_reg else item.concept


def _sentences(finding: Finding) -> str:
    return f"{finding.what}. {finding.do}".strip()


def _seen_pictures(prepared: Prepared, items: Sequence[Item]) -> Mapping[Path, tuple[Image.Image, Image.Image]]:
    """Decode what the cache holds of each item: the picture, and its mask ("L", a pixel a latent)."""
    visits = {item.path: Visit(item, False, item.caption) for item in items}
    encoded = encode_visits(
        list(visits.values()),
        prepared.weights,
        prepared.architecture,
        prepared.folders.cache,
        prepared.recipe.prior_loss_weight,
        prepared.encoder_dtype,
        prepared.device,
        pictures_alone=True,
    )
    cache = EncodedCache(prepared.folders.cache)
    vae = load_vae(prepared.weights, prepared.architecture, prepared.encoder_dtype, prepared.device)
    seen = {}
    for path, visit in visits.items():
        entry = cache.latents(encoded.latents_key(visit))
        picture = Image.fromarray(decode_latents(vae, entry.latents[None])[0].numpy())
        mask = Image.fromarray((entry.mask * 255).round().to(torch.uint8).numpy())
        seen[path] = (picture, mask)
    del vae
    release_memory()
    return seen


def _readings(prepared: Prepared, items: Sequence[Item]) -> Mapping[str, list[_Reading]]:
    """Every caption as CLIP and T5 read it."""
    captions = list(dict.fromkeys(whole_captions(item)[0] for item in items))
    readings: dict[str, list[_Reading]] = {caption: [] for caption in captions}
    architecture = prepared.architecture
    lengths = (("CLIP", architecture.clip_tokens), ("T5", architecture.t5_tokens))
    for tokenizer, (encoder, limit) in zip(load_tokenizers(prepared.weights), lengths, strict=True):
        for caption in read_captions(tokenizer, captions, limit):
            readings[caption.caption].append(_reading(encoder, limit, caption))
    return readings


def _reading(encoder: str, limit: int, caption: ReadCaption) -> _Reading:
    pieces = ["␣" if not piece.strip() else piece for piece in caption.pieces]
    return _Reading(encoder, len(pieces) + caption.marks, limit, pieces[: caption.read], pieces[caption.read :])


def _card(
    item: Item,
    seen: Image.Image,
    mask: Image.Image,
    findings: Sequence[str],
    readings: Mapping[str, list[_Reading]],
) -> _Card:
    return _Card(
        name=item.path.name,
        original=_as_address(_with_veil(open_upright(item.path.read_bytes()), item)),
        seen=_as_address(seen),
        is_exact=max(seen.size) <= _EXACT_UP_TO,
        mask=_as_address(mask.resize(seen.size, Image.Resampling.NEAREST)) if item.mask else "",
        kept=item.placement.kept,
        size=f"{item.placement.bucket[0]} x {item.placement.bucket[1]}",
        marks=list(_marks(item)),
        findings=findings,
        readings=readings[whole_captions(item)[0]],
    )


def _with_veil(picture: Image.Image, item: Item) -> Image.Image:
    """The whole picture, small, with what is cropped away greyed."""
    across, down = (small / whole for small, whole in zip(picture.size, item.placement.resized, strict=True))
    left, top, right, bottom = item.placement.crop
    box = (left * across, top * down, right * across, bottom * down)
    shrink = min(1.0, _LARGEST / max(picture.size))
    small = picture.resize((max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink))))
    # With a random crop every visit keeps another part.
    if item.placement.kept == 1 or item.picture_spec.random_crop:
        return small
    grey = Image.blend(small.convert("L").convert("RGB"), Image.new("RGB", small.size, _VEIL), 0.7)
    kept = Image.new("L", small.size, 0)
    edges = [round(edge * shrink) for edge in box]
    ImageDraw.Draw(kept).rectangle((edges[0], edges[1], edges[2] - 1, edges[3] - 1), fill=255)
    return Image.composite(small, grey, kept)


def _marks(item: Item) -> Iterator[str]:
    """What differs from visit to visit."""
    pictures, captions = item.picture_spec, item.caption_spec
    if item.repeats > 1:
        yield f"{item.repeats} times an epoch"
    if pictures.flip_aug:
        yield "half of the visits mirrored"
    if pictures.random_crop:
        yield f"cropped anywhere, {pictures.variants} variants"
    if pictures.color_aug:
        yield f"other colours, {pictures.variants} variants"
    if captions.wildcard:
        yield f"a choice of words, {len(whole_captions(item))} lines"
    if captions.shuffle:
        yield "tags shuffled"
    if captions.tag_dropout_rate:
        yield f"{captions.tag_dropout_rate:.0%} of the tags dropped"
    if captions.dropout_rate:
        yield f"no caption in {captions.dropout_rate:.0%} of the visits"
    if captions.dropout_every_n_epochs:
        yield f"no caption every {captions.dropout_every_n_epochs} epochs"
    if captions.warmup_step:
        yield "tags come in one by one"


def _as_address(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((_LARGEST, _LARGEST))
    file = io.BytesIO()
    form = "PNG" if max(small.size) <= _EXACT_UP_TO or small.mode == "L" else "JPEG"
    small.save(file, form, **({"quality": 88} if form == "JPEG" else {}))
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
