"""The smallest rank at which a LoRA draws as well as it does: halved as long as its score stays inside the noise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from fluxbooth.errors import Problem, UserError
from fluxbooth.flux.lora_formats import as_tensors, metadata_of, read_modules
from fluxbooth.flux.lora_resize import resized
from fluxbooth.flux.tensor_files import save_tensors
from fluxbooth.host.files import digest_of_file
from fluxbooth.host.folders import Folders
from fluxbooth.judging.rounds import OwnModels, Rounds
from fluxbooth.judging.scores import CheckpointScore, load_scores
from fluxbooth.judging.scoring import Choices, choices_of, scoring_of_run


def rank_by_score(lora: Path, data_file: Path | None, folders: Folders, tell: Callable[[str], object]) -> int | None:
    """Return the smallest rank at which a run's LoRA scores no worse; None where every smaller one does.

    Scored as the run's scores were, where it has some.

    Args:
        data_file: the run's data.toml; None for the usual one.
        tell: is told of each rank as it is scored.

    Raises:
        UserError: for a file that does not say which run it comes from, and what stands in the way of scoring.
    """
    run = run_of(lora)
    scores = load_scores(folders.run(run))
    scoring = scoring_of_run(run, data_file, None, folders, choices_of(scores) if scores else Choices())
    return smallest_rank(Rounds(scoring, OwnModels(scoring)), lora, tell)


def run_of(lora: Path) -> str:
    """Return the name of the run that a LoRA file says it comes from. Raises UserError where it says none."""
    name = metadata_of(lora).get("ss_output_name", "")
    if not name:
        raise UserError(
            Problem("does not say which run it comes from", where=str(lora), do="Give --rank, or a LoRA of fluxbooth's")
        )
    return name


def smallest_rank(rounds: Rounds, lora: Path, tell: Callable[[str], object]) -> int | None:
    """Return the smallest of the ranks 1/2, 1/4, 1/8 ... of a LoRA's that is no worse; None where every one is worse.

    Args:
        tell: is told of each rank as it is scored.
    """
    about = metadata_of(lora)
    # NAME-best.safetensors draws what the file draws that it is a copy of.
    digest = about.get("fluxbooth.best.digest") or digest_of_file(lora)
    whole = _score(rounds, lora, digest)
    rank = max(layer.rank for _, layer in read_modules(lora))
    tell(f"rank {rank}: mark {_mark(whole)}")
    found = None
    for smaller in _halves(rank):
        score = _score_at(rounds, lora, digest, smaller)
        worse = why_worse(score, whole)
        tell(f"rank {smaller}: mark {_mark(score)}, {worse or 'no worse'}")
        if worse:
            break
        found = smaller
    return found


def why_worse(smaller: CheckpointScore, whole: CheckpointScore) -> str:
    """Say why a LoRA of smaller rank is worse than the whole one; an empty text where it is not.

    Worse is a mark below the whole one's interval, what other seeds might have made of it: seed by seed a loss that
    nobody would see could be told, too.
    """
    if smaller.mark.mean < whole.mark.low:
        return "which is worse than other seeds might make the whole one"
    if smaller.vetoes and not whole.vetoes:
        return smaller.vetoes[0]
    return smaller.overbaked[0] if smaller.overbaked and not whole.overbaked else ""


def _score_at(rounds: Rounds, lora: Path, digest: str, rank: int) -> CheckpointScore:
    of_rank = hashlib.sha256(f"{digest} at rank {rank}".encode()).hexdigest()
    file = rounds.scoring.run_folder / "scores" / f"rank{rank}.safetensors"
    save_tensors(file, as_tensors(resized(read_modules(lora), rank)), {})
    try:
        return _score(rounds, file, of_rank)
    finally:
        file.unlink()


def _score(rounds: Rounds, file: Path, digest: str) -> CheckpointScore:
    with rounds.drawing([(file, digest, 1.0)]) as draw:
        drawn = draw(rounds.scoring.questions, file, digest, 1.0)
        return rounds.judge(draw).score(file.name, 0, digest, drawn)


def _halves(rank: int) -> Iterator[int]:
    while rank > 1:
        rank //= 2
        yield rank


def _mark(score: CheckpointScore) -> str:
    return f"{score.mark.mean:.3f} ({score.mark.low:.3f} to {score.mark.high:.3f})"
