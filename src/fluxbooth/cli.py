"""The command `fluxbooth`: one function a command; reads arguments, calls a room, prints what came of it."""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO, get_args

from fluxbooth import __version__
from fluxbooth.config.kohya_arguments import IDLE_ARGUMENTS
from fluxbooth.config.recipe import Recipe
from fluxbooth.errors import Problem, Problems, UserError, did_you_mean, of_files
from fluxbooth.host.captioners import BLIP_LARGE, CAPTIONER_FILES
from fluxbooth.host.folders import Folders, check_writable, folders_from_environment
from fluxbooth.host.page_cache import ReadAhead
from fluxbooth.host.scorers import CLIP_SCORERS, DEFAULT_SCORERS, DINO_SCORERS, SCORER_FILES
from fluxbooth.host.signals import StoppedOnRequestError
from fluxbooth.host.weights import FLUX_DEV, FLUX_DEV_FILES, MINIATURE, read_transformer_ahead

WORKFLOW_FOLDER = Path("workflows")
DONE, USER_CAN_MEND, USAGE, STOPPED = 0, 1, 2, 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 done, 1 the user can mend it, 2 usage, 75 stopped on request."""
    _log_to_terminal()
    signal.signal(signal.SIGTERM, _stop)
    parsed = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int | None] = parsed.command
    try:
        return command(parsed) or DONE
    except UserError as error:
        print(f"fluxbooth: {error}", file=sys.stderr)
        return USER_CAN_MEND
    except StoppedOnRequestError as error:
        print(f"fluxbooth: {error}", file=sys.stderr)
        return STOPPED
    except OSError as error:
        if (problem := of_files(error)) is None:
            raise
        print(f"fluxbooth: {problem}", file=sys.stderr)
        return USER_CAN_MEND
    except KeyboardInterrupt:
        print("fluxbooth: stopped", file=sys.stderr)
        return STOPPED


def download(arguments: argparse.Namespace) -> None:
    """Fetch what is missing of FLUX.1-dev into ComfyUI's folders, or captioning or scoring models."""
    from fluxbooth.host.download import download as fetch
    from fluxbooth.host.download import download_before_training
    from fluxbooth.host.files import DigestMemory

    folders = _folders(arguments)
    memory = DigestMemory(folders.cache / "digests.json")
    if arguments.captioner:
        files = CAPTIONER_FILES[arguments.captioner]
        fetch(files, folders.models, memory, replace=arguments.replace, dry_run=arguments.dry_run)
        return
    if arguments.scorers is not None:
        wanted = [file for name in arguments.scorers or DEFAULT_SCORERS for file in SCORER_FILES[name]]
        fetch(wanted, folders.models, memory, replace=arguments.replace, dry_run=arguments.dry_run)
        return
    if arguments.model == MINIATURE:
        print("nothing to download for the miniature: it comes with fluxbooth")
        return
    if arguments.model != FLUX_DEV:
        raise UserError(
            Problem(f"'{arguments.model}' cannot be downloaded", where="--model", allowed=f"{FLUX_DEV}, {MINIATURE}")
        )
    if arguments.before_train:
        download_before_training(FLUX_DEV_FILES, folders.models, memory)
    else:
        fetch(FLUX_DEV_FILES, folders.models, memory, replace=arguments.replace, dry_run=arguments.dry_run)


def caption(arguments: argparse.Namespace) -> None:
    """Write a caption file beside each picture of a folder, or of every concept in a data.toml."""
    from fluxbooth.captioning.run import caption_pictures
    from fluxbooth.captioning.wording import Wording

    outcome = caption_pictures(
        Path(arguments.source),
        Wording(arguments.prefix, arguments.suffix),
        arguments.model,
        _folders(arguments).models,
        extension=arguments.extension,
        overwrite=arguments.overwrite,
        batch_size=arguments.batch_size,
        max_new_tokens=arguments.max_new_tokens,
    )
    for path, line in outcome.written.items():
        print(f"wrote {path}: {line}")
    for picture in outcome.without_words:
        print(f"{picture}: the model says nothing about it, so it got no caption file")
    if outcome.left_alone:
        print(f"left {outcome.left_alone} caption files as they were (--overwrite writes them anew)")


def check(arguments: argparse.Namespace) -> int:
    """Say everything that can be known before a training starts: what stands in its way, what is odd, what it costs."""
    from fluxbooth.training.check import report, report_json, stands_in_the_way
    from fluxbooth.training.prepare import examine
    from fluxbooth.training.sheet import write_sheet

    if arguments.json:
        _log_to_terminal(sys.stderr)
    examined = examine(**_run_arguments(arguments))
    if arguments.json:
        print(report_json(examined))
    else:
        if examined.problems:
            print(f"fluxbooth: {UserError(examined.problems)}", file=sys.stderr)
        for line in report(examined):
            print(line)
    if arguments.sheet and examined.prepared:
        write_sheet(examined.prepared, examined.findings, Path(arguments.sheet))
    if stands_in_the_way(examined, arguments.strict):
        return USER_CAN_MEND
    if not arguments.json:
        print("nothing stands in the way: `fluxbooth train` with the same flags starts this run")
    return DONE


def train(arguments: argparse.Namespace) -> None:
    """Train one LoRA on the concepts of data.toml."""
    folders = _folders(arguments)
    _train(arguments, read_transformer_ahead(arguments.model, folders.models, folders.cache))


def _train(arguments: argparse.Namespace, ahead: ReadAhead | None) -> None:
    from fluxbooth.comfyui.client import free_memory, make_room, url_from_environment
    from fluxbooth.comfyui.workflow import write_run_workflow
    from fluxbooth.judging.scoring import scoring_of_prepared
    from fluxbooth.judging.while_training import JudgeWhileTraining
    from fluxbooth.reporting.page import write_report
    from fluxbooth.training.cache import EncodedCache
    from fluxbooth.training.prepare import prepare
    from fluxbooth.training.run import run
    from fluxbooth.training.run_toml import say_what_differs
    from fluxbooth.training.state import set_aside

    if arguments.clear_cache and _is_first_process():
        EncodedCache(_folders(arguments).cache).clear()

    def free_gpu() -> None:
        for line in make_room(url_from_environment()) if _is_first_process() else ():
            print(line)

    prepared = prepare(**_run_arguments(arguments), goes_on=not arguments.restart, make_room=free_gpu)
    if ahead:
        ahead.stop()
    say_what_differs(prepared, arguments.recipe)
    if (
        arguments.restart
        and _is_first_process()
        and (aside := set_aside(prepared.folders.run(prepared.recipe.output_name)))
    ):
        print(f"the run before is in {aside}")
    judge = JudgeWhileTraining(scoring_of_prepared(prepared)) if prepared.recipe.score_every else None
    folder = prepared.folders.run(prepared.recipe.output_name)
    try:
        outcome = run(prepared, judge)
    except StoppedOnRequestError:
        if _is_first_process():
            write_report(folder)
        raise
    if not _is_first_process():
        return
    # A ComfyUI that has read this LoRA's last version draws with it until it is told to forget.
    if prepared.device.type != "cpu":
        free_memory(url_from_environment())
    if prepared.folders.workflows and arguments.model != MINIATURE:
        workflows = prepared.folders.workflows / "runs"
        print(f"wrote {write_run_workflow(workflows, outcome.lora.name, prepared.class_tokens, prepared.picture_size)}")
    print(f"wrote {write_report(folder)}")
    for phase, seconds in outcome.phase_seconds.items():
        print(f"{phase:>10}: {seconds:7.1f} s")


def report(arguments: argparse.Namespace) -> None:
    """Write a run's page, runs/NAME/report.html: which file to use and why, scores, pictures, losses, recipe, cost."""
    from fluxbooth.host.files import is_held
    from fluxbooth.reporting.page import REPORT_FILE, write_report
    from fluxbooth.reporting.record import find_run
    from fluxbooth.reporting.watch import SECONDS_BETWEEN_PAGES, watch

    folder, others = find_run(folders_from_environment().runs, arguments.run)
    if arguments.run is None and others:
        print(f"{folder.name} is the run that was worked on last; others: {', '.join(others)}")
    problems = Problems()
    check_writable(folder, problems)
    problems.raise_if_any()
    if not arguments.watch:
        print(f"wrote {write_report(folder)}")
        return
    if not is_held(folder):
        print(f"no training is going on in {folder}; wrote {write_report(folder)}")
        return
    print(f"{folder / REPORT_FILE} is written anew every {SECONDS_BETWEEN_PAGES} seconds while the training goes on")
    watch(folder)
    print("the training has ended, and the page loads itself no more")


def generate(arguments: argparse.Namespace) -> None:
    """Draw pictures from prompts, with any number of LoRAs."""
    from fluxbooth.flux.device import choose_device, compute_dtype, default_precision
    from fluxbooth.flux.generate import Shot
    from fluxbooth.flux.generate import generate as draw
    from fluxbooth.flux.model import find_weights
    from fluxbooth.showing.pictures import next_number, save_picture

    folders = _folders(arguments)
    out = Path(arguments.out) if arguments.out else folders.runs / "generated"
    problems = Problems()
    check_writable(out, problems)
    problems.raise_if_any()
    weights = find_weights(arguments.model, folders.models)
    device = choose_device()
    shots = [Shot(prompt, arguments.seed, arguments.width, arguments.height) for prompt in arguments.prompt]
    loras = [_lora_argument(text, folders.loras) for text in arguments.lora]
    pictures = draw(
        shots,
        loras,
        weights,
        arguments.steps,
        arguments.guidance_scale,
        compute_dtype(default_precision(device), device),
        device,
        arguments.sampler,
    )
    named = ", ".join(f"{path.name}:{strength:g}" for path, strength in loras)
    for number, (shot, picture) in enumerate(zip(shots, pictures, strict=True), start=next_number(out)):
        path = out / f"{number:04d}_seed{shot.seed}.png"
        save_picture(
            picture, path, {"prompt": shot.prompt, "seed": str(shot.seed), "model": weights.name, "loras": named}
        )
        print(f"wrote {path}: {shot.prompt}")


def score(arguments: argparse.Namespace) -> None:
    """Score every checkpoint of a run, name the best and say why."""
    from fluxbooth.comfyui.workflow import write_run_workflow
    from fluxbooth.judging.rounds import OwnModels, Rounds
    from fluxbooth.judging.scores import scores_path
    from fluxbooth.judging.scoring import Choices, scoring_of_run
    from fluxbooth.judging.strengths import USUAL_STRENGTHS, score_strengths
    from fluxbooth.judging.table import score_lines
    from fluxbooth.reporting.page import write_report

    choices = Choices(arguments.seeds, arguments.size, arguments.steps, (arguments.dino, arguments.clip))
    data = Path(arguments.data) if arguments.data else None
    scoring = scoring_of_run(arguments.run, data, arguments.model, _folders(arguments), choices)
    rounds = Rounds(scoring, OwnModels(scoring))
    scores = rounds.update(scoring.checkpoints())
    if arguments.strengths is not None:
        scores = score_strengths(rounds, scores, arguments.strengths or USUAL_STRENGTHS)
    for line in score_lines(scores):
        print(line)
    print(f"wrote {scores_path(scoring.run_folder)}")
    print(f"wrote {scoring.loras / scores.decided.best_file}")
    if scores.strengths:
        print(f"wrote {scoring.run_folder / scores.strengths.sheet}")
    if scores.strengths and scoring.workflows:
        path = write_run_workflow(
            scoring.workflows / "runs",
            scores.decided.best_file,
            [concept.class_tokens for concept in scores.concepts],
            scoring.picture_size,
            name=scores.run,
            strength=scores.strengths.recommended,
        )
        print(f"wrote {path}")
    print(f"wrote {write_report(_folders(arguments).run(scores.run))}")


def regularize(arguments: argparse.Namespace) -> None:
    """Draw regularization pictures of every concept's plain noun with the base model, and add them to data.toml."""
    from fluxbooth.flux.model import find_weights
    from fluxbooth.regularize import Drawing
    from fluxbooth.regularize import regularize as draw

    out = Path(arguments.out)
    problems = Problems()
    check_writable(out, problems)
    problems.raise_if_any()
    drawing = Drawing(
        arguments.prompt,
        arguments.number,
        arguments.resolution,
        arguments.steps,
        arguments.guidance_scale,
        arguments.seed,
    )
    for line in draw(Path(arguments.data), out, drawing, find_weights(arguments.model, _folders(arguments).models)):
        print(line)


def inspect(arguments: argparse.Namespace) -> None:
    """Say what a LoRA file is: form, ranks, alpha, trigger words, where it changes most."""
    from fluxbooth.flux.lora_summary import summary

    for line in summary(_lora_path(arguments.file, _folders(arguments).loras)):
        print(line)


def convert(arguments: argparse.Namespace) -> None:
    """Write a LoRA under the other form's key names: diffusers' or kohya's."""
    from fluxbooth.flux.lora_formats import as_kohya, as_tensors, metadata_of, read_layers
    from fluxbooth.flux.tensor_files import save_tensors

    source = _lora_path(arguments.file, _folders(arguments).loras)
    target = _new_file(arguments.out, source, arguments.to)
    layers = read_layers(source)
    tensors = as_tensors(as_kohya(layers) if arguments.to == "kohya" else layers)
    save_tensors(target, tensors, metadata_of(source))
    print(f"wrote {target}")


def resize(arguments: argparse.Namespace) -> None:
    """Write a LoRA of smaller rank, the nearest to it that there is."""
    from fluxbooth.flux.lora_formats import as_tensors, metadata_of, read_modules
    from fluxbooth.flux.lora_resize import resized
    from fluxbooth.flux.tensor_files import save_tensors
    from fluxbooth.judging.ranks import rank_by_score

    source = _lora_path(arguments.file, _folders(arguments).loras)
    rank = arguments.rank
    if arguments.by_score:
        data = Path(arguments.data) if arguments.data else None
        rank = rank_by_score(source, data, _folders(arguments), print)
        if rank is None:
            print("no smaller rank draws as well, so nothing is written")
            return
    target = _new_file(arguments.out, source, f"rank{rank}")
    tensors = as_tensors(resized(read_modules(source), rank))
    about = {"ss_network_dim": str(rank), "ss_network_alpha": str(float(rank))}
    kept = {key: value for key, value in metadata_of(source).items() if not key.startswith("fluxbooth.best.")}
    save_tensors(target, tensors, kept | about)
    print(f"wrote {target}: {target.stat().st_size / 1e6:,.1f} MB of {source.stat().st_size / 1e6:,.1f}")


def flush(arguments: argparse.Namespace) -> None:
    """Give memory back: ComfyUI's models, and the page cache, the machine's whole one where that is allowed."""
    from fluxbooth.comfyui.client import free_memory, url_from_environment
    from fluxbooth.host.memory import GIB, free_bytes
    from fluxbooth.host.page_cache import drop_page_cache_of, drop_whole_page_cache

    folders = _folders(arguments)
    before = free_bytes()
    asked = free_memory(url_from_environment())
    print("ComfyUI unloaded its models" if asked else f"no ComfyUI at {url_from_environment()}, nothing to unload")
    files = drop_page_cache_of((folders.models, folders.cache))
    if drop_whole_page_cache():
        print("dropped the machine's whole page cache")
    else:
        print(f"dropped the page cache of {files} files in {folders.models} and {folders.cache}")
        print("the rest of the machine's page cache stays: dropping it takes root (sudo scripts/containers/flush.sh)")
    after = free_bytes()
    if before is not None and after is not None:
        print(f"{max(0, after - before) / GIB:.1f} GiB came back, {after / GIB:.1f} GiB are free now")


def render(arguments: argparse.Namespace) -> None:
    """Draw a workflow with a running ComfyUI, and see that it took every key of the LoRA."""
    from tqdm import tqdm

    from fluxbooth.comfyui.client import url_from_environment
    from fluxbooth.comfyui.render import Changes, changed, read_prompt
    from fluxbooth.comfyui.render import render as draw

    file = _workflow_file(arguments.workflow)
    lora = _name_and_strength(arguments.lora) if arguments.lora else None
    out = Path(arguments.out) if arguments.out else folders_from_environment().runs / "generated"
    problems = Problems()
    check_writable(out, problems)
    problems.raise_if_any()
    prompt = changed(read_prompt(file), Changes(arguments.prompt, lora, arguments.seed), str(file))
    with tqdm(desc="drawing", unit="step", disable=None) as bar:

        def show(step: int, steps: int) -> None:
            bar.total = steps
            bar.update(step - bar.n)

        paths = draw(url_from_environment(), prompt, out, show)
    for path in paths:
        print(f"wrote {path}")


def list_concepts(arguments: argparse.Namespace) -> None:
    """Say what each concept of data.toml is: class tokens, folder, pictures, repeats."""
    from fluxbooth.dataset.concepts import concept_lines

    for line in concept_lines(Path(arguments.data)):
        print(line)


def add_concept(arguments: argparse.Namespace) -> None:
    """Add a folder of pictures to data.toml; a new file is written where there is none."""
    from fluxbooth.dataset.concepts import add_concept as add_to

    file = Path(arguments.data)
    tokens = add_to(
        file, arguments.folder, arguments.class_noun, arguments.token, arguments.repeats, is_reg=arguments.reg
    )
    print(f"added '{tokens}' ({arguments.folder}) to {file}")


def remove_concept(arguments: argparse.Namespace) -> None:
    """Take a concept out of data.toml; its pictures stay where they are."""
    from fluxbooth.dataset.concepts import remove_concept as remove_from

    file = Path(arguments.data)
    print(f"removed {remove_from(file, arguments.concept)} from {file}; its pictures stay")


def import_(arguments: argparse.Namespace) -> None:
    """Turn a config of ai-toolkit or the settings of kohya_ss into a data.toml and a recipe."""
    from fluxbooth.config.importing.command import import_settings

    for line in import_settings(Path(arguments.file), Path(arguments.out) if arguments.out else None):
        print(line)


def bench(arguments: argparse.Namespace) -> None:
    """Measure the speed and the memory of a training step against its arithmetic; needs no download."""
    import torch

    from fluxbooth.benchmark.measure import Question, measure
    from fluxbooth.benchmark.show import as_json, compared, read_measurement, table
    from fluxbooth.flux.device import choose_device, compute_dtype, default_precision

    other = read_measurement(Path(arguments.compare)) if arguments.compare else None
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = choose_device()
    precision = arguments.mixed_precision or ("bf16" if arguments.fp8_products else default_precision(device))
    question = Question(
        arch=arguments.arch,
        resolution=arguments.resolution,
        network_dim=arguments.network_dim,
        train_batch_size=arguments.train_batch_size,
        text_tokens=arguments.text_tokens,
        dtype=compute_dtype(precision, device),
        optimizer_type=arguments.optimizer_type,
        base_weights=None if arguments.base_weights == "auto" else arguments.base_weights,
        gradient_checkpointing=arguments.gradient_checkpointing,
        blocks_to_swap=arguments.blocks_to_swap,
        fp8_products=arguments.fp8_products,
        diffusers_pass=arguments.diffusers_pass,
        memory=arguments.memory,
        steps=arguments.steps,
    )
    measured = measure(question, device)
    for line in [as_json(measured)] if arguments.json else table(measured):
        print(line)
    for line in compared(measured, other) if other else ():
        print(line, file=sys.stderr if arguments.json else sys.stdout)


def demo(arguments: argparse.Namespace) -> None:
    """The whole job on the miniature: train, draw before and after, judge what was learned."""
    from fluxbooth.demo import run_demo

    run_demo(Path(arguments.data), _folders(arguments), arguments.recipe, arguments.output_name)


class _Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations and knows what was probably meant."""

    def __init__(self, **keywords: Any) -> None:
        self.options: set[str] = set()
        super().__init__(**keywords, allow_abbrev=False)

    def add_argument(self, *names: Any, **keywords: Any) -> argparse.Action:
        action = super().add_argument(*names, **keywords)
        self.options.update(action.option_strings)
        return action

    def parse_args(self, arguments: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(arguments, namespace)
        if unknown:
            parser: _Parser = getattr(parsed, "parser", self)
            parser.error(
                "; ".join(parser.unknown(argument) for argument in unknown if argument.startswith("-"))
                or f"unknown argument '{unknown[0]}'"
            )
        return parsed

    def unknown(self, argument: str) -> str:
        """Say that an argument is unknown, and which was probably meant."""
        return f"unknown argument '{argument}'. {did_you_mean(argument.split('=')[0], self.options)}".strip()

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = did_you_mean(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(
                action, f"{error.message}. {near}".rstrip(". ") if near else error.message
            ) from error

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> _Parser:
    parser = _Parser(prog="fluxbooth", description="From a folder of pictures to a FLUX.1 LoRA that ComfyUI loads.")
    parser.add_argument("--version", action="version", version=f"fluxbooth {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        command: Callable[[argparse.Namespace], int | None],
        *options: Callable[[_Parser], None],
        below: Any = commands,
        name: str = "",
    ) -> None:
        about = (command.__doc__ or "").strip()
        added = below.add_parser(name or command.__name__, help=about, description=about)
        for option in options:
            option(added)
        added.set_defaults(command=command, parser=added)

    add(download, _model_options, _download_options)
    add(caption, _models_dir_option, _caption_options)
    add(check, _model_options, _data_options, _check_options, _recipe_options)
    add(train, _model_options, _data_options, _train_options, _recipe_options)
    add(report, _report_options)
    add(generate, _model_options, _generate_options)
    add(score, _models_dir_option, _data_options, _score_options)
    add(regularize, _model_options, _data_options, _regularize_options)
    add(flush, _models_dir_option)
    add(bench, _bench_options)
    add(demo, _models_dir_option, _data_options, _demo_options)
    about_concepts = "List, add and remove the concepts of a data.toml, which keeps its comments."
    concepts = commands.add_parser("concept", help=about_concepts, description=about_concepts)
    of_concept = concepts.add_subparsers(required=True, metavar="COMMAND")
    add(list_concepts, _data_file_option, below=of_concept, name="list")
    add(add_concept, _data_file_option, _add_concept_options, below=of_concept, name="add")
    add(remove_concept, _data_file_option, _remove_concept_options, below=of_concept, name="remove")
    add(import_, _import_options, name="import")
    about_comfyui = "Work with a running ComfyUI (COMFYUI_URL, else http://127.0.0.1:8188)."
    comfy = commands.add_parser("comfy", help=about_comfyui, description=about_comfyui)
    add(render, _render_options, below=comfy.add_subparsers(required=True, metavar="COMMAND"))
    about_loras = "Inspect a LoRA file, convert it between diffusers' and kohya's form, or make its rank smaller."
    loras = commands.add_parser("lora", help=about_loras, description=about_loras)
    of_lora = loras.add_subparsers(required=True, metavar="COMMAND")
    add(inspect, _models_dir_option, _lora_file_option, below=of_lora)
    add(convert, _models_dir_option, _lora_file_option, _out_option, _convert_options, below=of_lora)
    add(resize, _models_dir_option, _lora_file_option, _out_option, _resize_options, below=of_lora)
    return parser


def _models_dir_option(parser: _Parser) -> None:
    parser.add_argument("--models-dir", help="ComfyUI's model folders (FLUXBOOTH_MODELS_DIR, else models)")


def _model_options(parser: _Parser) -> None:
    _models_dir_option(parser)
    parser.add_argument(
        "--model",
        default=os.environ.get("FLUXBOOTH_MODEL") or FLUX_DEV,
        help=f"{FLUX_DEV}, {MINIATURE} or a folder in ComfyUI's layout (FLUXBOOTH_MODEL, else {FLUX_DEV})",
    )


def _download_options(parser: _Parser) -> None:
    what_for = parser.add_mutually_exclusive_group()
    scorers = what_for.add_argument(
        "--scorers",
        nargs="*",
        choices=tuple(SCORER_FILES),
        help=f"fetch these scoring models and not FLUX.1-dev (without a name {' and '.join(DEFAULT_SCORERS)})",
    )
    before_train = what_for.add_argument(
        "--before-train", action="store_true", help="leave a refusal for `train` to repeat, and exit with 0"
    )
    captioner = what_for.add_argument(
        "--captioner", choices=tuple(CAPTIONER_FILES), help="fetch this captioning model and not FLUX.1-dev"
    )
    for option in (scorers, before_train, captioner):
        parser.options.update(option.option_strings)
    parser.add_argument("--replace", action="store_true", help="fetch files anew that are there with other bytes")
    parser.add_argument("--dry-run", action="store_true", help="ask the hub, say what would be fetched, fetch nothing")


def _caption_options(parser: _Parser) -> None:
    parser.add_argument("source", metavar="FOLDER|data.toml", help="the pictures, right inside one or several folders")
    parser.add_argument(
        "--prefix", default="", metavar="TEXT", help="before each caption; [trigger] is the concept's class_tokens"
    )
    parser.add_argument(
        "--suffix", default="", metavar="TEXT", help="after each caption; [trigger] is the concept's class_tokens"
    )
    parser.add_argument(
        "--model", default=BLIP_LARGE, help=f"{', '.join(CAPTIONER_FILES)} or a folder with such a model ({BLIP_LARGE})"
    )
    parser.add_argument("--overwrite", action="store_true", help="also write the captions anew that are there")
    parser.add_argument(
        "--extension", type=_ending, metavar=".ENDING", help="of a folder's caption files (.txt); a data.toml has it"
    )
    parser.add_argument("--batch_size", type=_whole_from(1), default=8, metavar="N", help="pictures seen at once (8)")
    parser.add_argument(
        "--max_new_tokens", type=_whole_from(1), default=60, metavar="N", help="longest caption, tokens (60)"
    )


def _data_options(parser: _Parser) -> None:
    parser.add_argument(
        "--data", type=_name, help="which folders are which concepts, in kohya's dialect (default: flux_data/data.toml)"
    )


def _data_file_option(parser: _Parser) -> None:
    parser.add_argument("--data", default="flux_data/data.toml", help="the data.toml (default: flux_data/data.toml)")


def _add_concept_options(parser: _Parser) -> None:
    parser.add_argument("folder", help="the pictures; counted from here, else from the folder of data.toml")
    parser.add_argument(
        "--class-noun", required=True, metavar="NOUN", help="the plain noun for what it is, such as toy"
    )
    parser.add_argument("--token", metavar="WORD", help="a made-up word (default: the folder's name, in small letters)")
    parser.add_argument("--repeats", type=_whole_from(1), default=1, help="how often an epoch shows each picture")
    parser.add_argument(
        "--reg", action="store_true", help="pictures of others of the kind, which hold the plain noun's meaning"
    )


def _remove_concept_options(parser: _Parser) -> None:
    parser.add_argument("concept", help="its folder, or its class tokens in quotes")


def _import_options(parser: _Parser) -> None:
    parser.add_argument("file", help="ai-toolkit's YAML, or the JSON that kohya_ss saves")
    parser.add_argument("--out", help="folder for data.toml and recipe.toml (default: imported/ and the file's name)")


def _check_options(parser: _Parser) -> None:
    parser.add_argument("--strict", action="store_true", help="end with 1 also where there are only warnings")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing shortened, nothing else")
    parser.add_argument(
        "--sheet",
        type=_name,
        metavar="FILE.html",
        help="write a page that shows every picture and caption as the network sees it",
    )


def _bench_options(parser: _Parser) -> None:
    parser.add_argument(
        "--arch",
        choices=["flux-dev", "thin", "miniature"],
        default="flux-dev",
        help="shape of the random weights: thin is FLUX.1-dev's width with 1 double and 2 single blocks",
    )
    parser.add_argument("--resolution", type=_multiple_of_16, default=1024, help="pixels of the square pictures (1024)")
    parser.add_argument("--network_dim", type=_whole_from(1), default=16, help="rank of the LoRA (16)")
    parser.add_argument("--train_batch_size", type=_whole_from(1), default=1, help="pictures at once (1)")
    parser.add_argument("--text_tokens", type=_whole_from(1), help="T5's text length (what the shape trains with)")
    parser.add_argument("--mixed_precision", choices=["no", "bf16"], help="arithmetic (bf16 where the device has it)")
    parser.add_argument(
        "--optimizer_type", choices=_choices_of_field("optimizer_type"), default="AdamW", help="optimizer (AdamW)"
    )
    parser.add_argument(
        "--base_weights",
        choices=_choices_of_field("base_weights"),
        default="auto",
        help="how the frozen matrices are held (what fits)",
    )
    parser.add_argument(
        "--gradient_checkpointing",
        action=argparse.BooleanOptionalAction,
        help="recompute all blocks, or none (as many as the memory asks for)",
    )
    parser.add_argument(
        "--blocks_to_swap",
        type=_whole_from(0),
        help="blocks whose matrices wait in the machine's memory (as many as the GPU's memory asks for)",
    )
    parser.add_argument(
        "--fp8_products", action="store_true", help="multiply in fp8, of matrices held in it and beside bf16"
    )
    parser.add_argument("--diffusers_pass", action="store_true", help="compute by diffusers' own pass, to compare with")
    parser.add_argument(
        "--memory", type=_above_zero, metavar="GIB", help="measure the plan for so much free memory (what is free)"
    )
    parser.add_argument("--steps", type=_whole_from(1), default=5, help="steps that are measured (5)")
    parser.add_argument("--threads", type=_whole_from(1), help="threads of the processor")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--compare", metavar="FILE", help="hold the result against one that --json gave before")


def _demo_options(parser: _Parser) -> None:
    parser.set_defaults(data="flux_data/data.toml")
    parser.add_argument("--recipe", default="demo", help="name of a file in recipes/, or a file (demo)")
    parser.add_argument("--output_name", default="demo", help="name of the LoRA and of the folder in runs/")


def _train_options(parser: _Parser) -> None:
    parser.add_argument("--restart", action="store_true", help="begin anew; the run of this name is moved aside")
    parser.add_argument("--clear-cache", action="store_true", help="encode every picture and caption anew")


def _report_options(parser: _Parser) -> None:
    parser.add_argument("run", nargs="?", metavar="RUN", help="its name or folder (default: the one worked on last)")
    parser.add_argument(
        "--watch", action="store_true", help="write the page again and again while the training goes on"
    )


def _recipe_options(parser: _Parser) -> None:
    parser.add_argument(
        "--recipe", type=_name, help="name of a file in recipes/, or a file (default: default, or miniature)"
    )
    idle = parser.add_argument_group("kohya's arguments that are not needed")
    for name, about in IDLE_ARGUMENTS.items():
        how: dict[str, Any] = {"action": "store_true"} if about.allowed == (True, False) else {"metavar": "TEXT"}
        parser.options.update(
            idle.add_argument(f"--{name}", default=argparse.SUPPRESS, help=about.why, **how).option_strings
        )
    idle.add_argument(
        "--network_train_unet_only",
        action="store_true",
        default=argparse.SUPPRESS,
        help="the same as --text_encoder_lr 0",
    )
    idle.add_argument(
        "--fp8_base",
        action="store_true",
        default=argparse.SUPPRESS,
        help="the same as --base_weights fp8",
    )
    idle.add_argument(
        "--skip_first_sample",
        action="store_true",
        default=argparse.SUPPRESS,
        help="ai-toolkit's: the same as --no-sample_at_first",
    )
    # Known, so that a refusal can say where it belongs, and does not repeat it.
    idle.add_argument("--wandb_api_key", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    recipe = parser.add_argument_group("recipe fields", "Each wins over the recipe file.")
    for name, field in Recipe.model_fields.items():
        kinds = _kinds_of(field.annotation)
        keywords: dict[str, Any] = {"default": argparse.SUPPRESS, "help": (field.description or "").replace("%", "%%")}
        if bool in kinds:
            keywords["action"] = argparse.BooleanOptionalAction
        elif tuple in kinds:
            keywords["nargs"] = "*"
        elif choices := [kind for kind in kinds if isinstance(kind, str)]:
            keywords["choices"] = choices
            keywords["type"] = partial(_of_any_case, choices)
        else:
            keywords["type"] = int if int in kinds else float if float in kinds else str
            keywords["metavar"] = {int: "N", float: "X", str: "TEXT"}[keywords["type"]]
        parser.options.update(recipe.add_argument(f"--{name}", **keywords).option_strings)


def _choices_of_field(name: str) -> list[str]:
    return sorted(kind for kind in _kinds_of(Recipe.model_fields[name].annotation) if isinstance(kind, str))


def _of_any_case(choices: Sequence[str], text: str) -> str:
    return next((choice for choice in choices if choice.lower() == text.lower()), text)


def _kinds_of(annotation: Any) -> set[Any]:
    """The plain types and literal values inside an annotation, for instance {int, NoneType} of int | None."""
    if annotation is tuple or getattr(annotation, "__origin__", None) is tuple:
        return {tuple}
    inner = get_args(annotation)
    return {kind for part in inner for kind in _kinds_of(part)} if inner else {annotation}


def _generate_options(parser: _Parser) -> None:
    parser.add_argument("--prompt", action="append", required=True, help="what to draw; may be given several times")
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="a file, or its name in models/loras; may be repeated",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="the same seed draws the same picture")
    parser.add_argument("--width", type=_multiple_of_16, default=1024, help="pixels, a multiple of 16")
    parser.add_argument("--height", type=_multiple_of_16, default=1024, help="pixels, a multiple of 16")
    parser.add_argument("--steps", type=_whole_from(1), default=28, help="network passes a picture")
    parser.add_argument("--guidance_scale", type=_from_zero, default=3.5, help="what the distilled network is told")
    parser.add_argument(
        "--sampler",
        choices=("euler", "dpmpp_2m"),
        default="euler",
        help="dpmpp_2m draws what the bundled ComfyUI workflow draws of the same prompt, seed, size and steps (euler)",
    )
    parser.add_argument("--out", help="folder for the pictures (default: generated/ in the runs folder)")


def _score_options(parser: _Parser) -> None:
    parser.add_argument("run", help="the run's name: its --output_name, and its folder in runs/")
    parser.add_argument("--model", help="the base weights, where they are not the run's own")
    parser.add_argument("--seeds", type=_whole_from(2), default=6, metavar="N", help="pictures of each prompt (6)")
    parser.add_argument(
        "--size", type=_multiple_of_16, metavar="PIXELS", help="side of the pictures (as trained, 512 at most)"
    )
    parser.add_argument("--steps", type=_whole_from(1), metavar="N", help="network passes a picture (20; miniature 10)")
    parser.add_argument(
        "--strengths",
        nargs="*",
        type=_above_zero,
        metavar="X",
        help="also draw the best at these strengths, and recommend one (without a number 0.4 0.6 0.8 1 1.2)",
    )
    parser.add_argument(
        "--dino", choices=DINO_SCORERS, default=DEFAULT_SCORERS[0], help=f"what tells subjects ({DEFAULT_SCORERS[0]})"
    )
    parser.add_argument(
        "--clip", choices=CLIP_SCORERS, default=DEFAULT_SCORERS[1], help=f"what reads prompts ({DEFAULT_SCORERS[1]})"
    )


def _regularize_options(parser: _Parser) -> None:
    parser.set_defaults(data="flux_data/data.toml")
    parser.add_argument(
        "--number", type=_whole_from(1), default=20, help="pictures of each noun; those there are count"
    )
    parser.add_argument("--prompt", default="a photo of a [noun]", help="what is drawn; [noun] stands for the noun")
    parser.add_argument("--out", default="flux_data/regularization", help="a folder; each noun gets one in it")
    parser.add_argument("--resolution", type=_multiple_of_16, default=1024, help="pixels of a side, a multiple of 16")
    parser.add_argument("--steps", type=_whole_from(1), default=28, help="network passes a picture")
    parser.add_argument("--guidance_scale", type=_from_zero, default=3.5, help="what the distilled network is told")
    parser.add_argument("--seed", type=_seed, default=0, help="of a noun's first picture; the next have the next ones")


def _render_options(parser: _Parser) -> None:
    parser.add_argument("workflow", help="a name in workflows/api, or a file in the form that the page exports as API")
    parser.add_argument("--prompt", help="what to draw instead of what the workflow says")
    parser.add_argument("--lora", metavar="FILE[:STRENGTH]", help="a name in models/loras, as ComfyUI lists it")
    parser.add_argument("--seed", type=_seed, help="the same seed draws the same picture")
    parser.add_argument("--out", help="folder for the pictures (default: generated/ in the runs folder)")


def _lora_file_option(parser: _Parser) -> None:
    parser.add_argument("file", help="a LoRA file, or its name in models/loras")


def _out_option(parser: _Parser) -> None:
    parser.add_argument("--out", help="the file to write (default: beside it, with what was done in its name)")


def _convert_options(parser: _Parser) -> None:
    parser.add_argument("--to", choices=("diffusers", "kohya"), required=True, help="whose key names to write")


def _resize_options(parser: _Parser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    rank = which.add_argument("--rank", type=_whole_from(1), help="the new rank; smaller ones stay as they are")
    by_score = which.add_argument(
        "--by-score", action="store_true", help="the smallest that scores no worse, as `fluxbooth score` has it"
    )
    parser.options.update((*rank.option_strings, *by_score.option_strings))
    parser.add_argument("--data", help="with --by-score: the run's data.toml (default: flux_data/data.toml)")


def _multiple_of_16(text: str) -> int:
    if not text.isdecimal() or int(text) < 16 or int(text) % 16:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 16 from 16")
    return int(text)


def _ending(text: str) -> str:
    if not re.fullmatch(r"\.\w+", text):
        raise argparse.ArgumentTypeError(f"{text} is not an ending such as .txt")
    return text


def _from_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0")
    return number


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to 2^64 - 1, as ComfyUI has them")
    return int(text)


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def _above_zero(text: str) -> float:
    number = _from_zero(text)
    if number == 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _whole_from(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least}")
        return int(text)

    return read


def _lora_argument(text: str, loras: Path) -> tuple[Path, float]:
    name, strength = _name_and_strength(text)
    return _lora_path(name, loras), strength


def _name_and_strength(text: str) -> tuple[str, float]:
    name, colon, strength = text.rpartition(":")
    if not colon:
        name, strength = text, "1"
    try:
        factor = float(strength)
    except ValueError:
        name, factor = text, 1.0
    if not math.isfinite(factor):
        raise UserError(Problem(f"the strength is {strength}", where=f"--lora {text}", allowed="a finite number"))
    return name, factor


def _lora_path(name: str, loras: Path) -> Path:
    path = Path(name)
    return path if path.exists() else loras / name


def _workflow_file(name: str) -> Path:
    bundled = {path.stem: path for path in sorted((WORKFLOW_FOLDER / "api").glob("*.json"))}
    if name in bundled or Path(name).is_file():
        return bundled.get(name, Path(name))
    raise UserError(
        Problem(
            f"no workflow '{name}'",
            where="fluxbooth comfy render",
            allowed=f"{', '.join(bundled) or 'none'} (files in {WORKFLOW_FOLDER / 'api'}), or a file",
            do=did_you_mean(name, bundled),
        )
    )


def _new_file(out: str | None, source: Path, done: str) -> Path:
    """Where to write what was made of `source`; a ComfyUI that has a file open goes on with the old one, so never over
    one that is there."""
    target = Path(out) if out else source.with_name(f"{source.stem}-{done}.safetensors")
    if target.exists():
        raise UserError(Problem("is there already", where=str(target), do="Name another file with --out, or delete it"))
    problems = Problems()
    check_writable(target.parent, problems)
    problems.raise_if_any()
    return target


def _folders(arguments: argparse.Namespace) -> Folders:
    return folders_from_environment(arguments.models_dir)


def _run_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    own = {"network_train_unet_only", "skip_first_sample", "fp8_base", "wandb_api_key"}
    names = {*Recipe.model_fields, *IDLE_ARGUMENTS, *own}
    flags = {name: value for name, value in vars(arguments).items() if name in names}
    return {
        "model": arguments.model,
        "data_file": Path(arguments.data) if arguments.data else None,
        "recipe_name": arguments.recipe or (MINIATURE if arguments.model == MINIATURE else "default"),
        "flags": {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()},
        "folders": _folders(arguments),
    }


def _log_to_terminal(stream: TextIO | None = None) -> None:
    """Show what the rooms log, but for the line a step, which is for train.log: here the progress bar shows it."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.addFilter(lambda record: record.name != "fluxbooth.steps")
    logging.basicConfig(format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("fluxbooth").setLevel(logging.INFO if _is_first_process() else logging.ERROR)
    # What is asked again is said in our words where it takes time (host/hub.py).
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def _is_first_process() -> bool:
    """Whether this is the one process, or of several that a launcher has started the one that says what happens."""
    return os.environ.get("RANK", "0") == "0"


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
