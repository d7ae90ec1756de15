"""What was asked for and changes nothing in this run: said before it starts, never passed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fluxbooth.config.recipe import Recipe

_OF_SAMPLES = ("sample_seed", "walk_seed", "sample_width", "sample_height", "sample_steps", "sample_guidance_scale")


def without_effect(
    recipe: Recipe, origins: Mapping[str, str], steps: int, steps_per_epoch: int, *, has_regularization: bool
) -> Iterator[str]:
    """Yield a line for all that flags or the recipe file say and nothing in a run of `steps` optimizer steps reads.

    Args:
        origins: where each field came from; of what is a "default" nothing is said.
    """

    def given(*names: str) -> str:
        return ", ".join(name for name in names if origins[name] != "default" and _is_on(getattr(recipe, name)))

    draws = recipe.sample_every_n_steps or recipe.sample_every_n_epochs or recipe.sample_at_first
    if not draws and (of_samples := given(*_OF_SAMPLES)):
        yield f"{of_samples}: no effect without sample_every_n_steps or sample_every_n_epochs"
    for what, then in (
        ("save", "the last LoRA file is the only one"),
        ("validate", "before and after is all there is"),
    ):
        for unit, length in (("steps", 1), ("epochs", steps_per_epoch)):
            name = f"{what}_every_n_{unit}"
            every = getattr(recipe, name)
            if every and every * length >= steps:
                yield f"{name} = {every} has no effect in {steps / length:.4g} {unit}: {then}"
    if not has_regularization and given("prior_loss_weight"):
        yield "prior_loss_weight has no effect: no subset has is_reg = true"
    if recipe.lr_warmup_steps >= steps > 1:
        yield f"lr_warmup_steps is {recipe.lr_warmup_steps:g}: in {steps} steps the rate does not reach learning_rate"
    if not recipe.text_encoder_lr and any("loraplus_text_encoder_lr_ratio" in text for text in recipe.network_args):
        yield "loraplus_text_encoder_lr_ratio has no effect: text_encoder_lr is 0"


def _is_on(value: object) -> bool:
    return value is not None and value is not False
