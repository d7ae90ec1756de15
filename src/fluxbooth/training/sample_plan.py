"""Which sample pictures a run draws, and after which steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fluxbooth.config.prompts import TRIGGER, SamplePrompt
from fluxbooth.config.recipe import Recipe


@dataclass(frozen=True)
class SamplePicture:
    """One picture that is drawn in every round."""

    prompt: str
    seed: int
    width: int
    """Pixels."""
    height: int
    steps: int
    """Network passes."""
    guidance_scale: float


@dataclass(frozen=True)
class SamplePlan:
    """The pictures of a round, and when there is one."""

    pictures: Sequence[SamplePicture] = ()
    every_n_steps: int | None = None
    every_n_epochs: int | None = None
    at_first: bool = False
    steps: int = 0
    """Optimizer steps of the run."""
    steps_per_epoch: int = 1

    @property
    def prompts(self) -> set[str]:
        """What has to be encoded for the pictures."""
        return {picture.prompt for picture in self.pictures}

    def is_due(self, step: int) -> bool:
        """Whether there is a round once `step` optimizer steps are done; the last step always has one."""
        if not self.pictures:
            return False
        if step == 0:
            return self.at_first
        epoch, within = divmod(step, self.steps_per_epoch)
        return (
            step == self.steps
            or (self.every_n_steps is not None and step % self.every_n_steps == 0)
            or (self.every_n_epochs is not None and within == 0 and epoch % self.every_n_epochs == 0)
        )

    def announcement(self) -> str:
        """Say how many pictures there will be; an empty text where there are none."""
        rounds = sum(self.is_due(step) for step in range(self.steps + 1)) if self.pictures else 0
        if not rounds:
            return ""
        number, passes = len(self.pictures), rounds * sum(picture.steps for picture in self.pictures)
        return (
            f"sample pictures: {rounds:,} time{'' if rounds == 1 else 's'} {number:,}, {rounds * number:,} in all, "
            f"which takes {passes:,} passes of the network"
        )


def plan_samples(
    recipe: Recipe,
    prompts: Sequence[SamplePrompt],
    class_tokens: Sequence[str],
    size: tuple[int, int],
    steps: int,
    steps_per_epoch: int,
) -> SamplePlan:
    """Plan a run's sample pictures; none where the recipe does not say when.

    A prompt with [trigger] is drawn for each concept. Without prompts each concept is drawn alone, and all together.

    Args:
        class_tokens: what the concepts are called.
        size: width and height in pixels where neither prompt nor recipe says them.
        steps: optimizer steps of the run.
    """
    if not (recipe.sample_every_n_steps or recipe.sample_every_n_epochs or recipe.sample_at_first):
        return SamplePlan()
    asked = list(prompts) or [SamplePrompt(prompt=text) for text in _prompts_without_file(class_tokens)]
    alone = [
        one.model_copy(update={"prompt": one.prompt.replace(TRIGGER, tokens)})
        for one in asked
        for tokens in (class_tokens if TRIGGER in one.prompt else ("",))
    ]
    pictures = []
    for number, one in enumerate(alone):
        walked = recipe.sample_seed + (number if recipe.walk_seed else 0)
        pictures.append(
            SamplePicture(
                one.prompt,
                one.seed if one.seed is not None else walked % 2**64,
                one.width or recipe.sample_width or size[0],
                one.height or recipe.sample_height or size[1],
                one.sample_steps or recipe.sample_steps,
                one.guidance_scale if one.guidance_scale is not None else recipe.sample_guidance_scale,
            )
        )
    return SamplePlan(
        pictures,
        recipe.sample_every_n_steps,
        recipe.sample_every_n_epochs,
        recipe.sample_at_first,
        steps,
        steps_per_epoch,
    )


def _prompts_without_file(class_tokens: Sequence[str]) -> list[str]:
    return [*class_tokens, *([" next to ".join(class_tokens)] if len(class_tokens) > 1 else [])]
