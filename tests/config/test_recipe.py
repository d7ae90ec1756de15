"""Recipes: every file in recipes/ is right, flags win, and what cannot be is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxbooth.config.recipe import Recipe, resolve_recipe
from fluxbooth.errors import UserError

RECIPES = sorted(path.stem for path in (Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.fixture(autouse=True)
def _beside_the_recipes(in_repository: Path) -> None:
    pass


def complaint(name_or_file: str, **flags: object) -> str:
    with pytest.raises(UserError) as raised:
        resolve_recipe(name_or_file, flags)
    return str(raised.value)


def test_there_are_recipes_to_test() -> None:
    assert {"default", "playbook", "miniature"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_in_the_folder_is_right(name: str) -> None:
    assert resolve_recipe(name, {}).recipe.output_name


def test_the_playbooks_recipe_has_the_playbooks_values() -> None:
    recipe = resolve_recipe("playbook", {}).recipe
    assert (recipe.network_dim, recipe.alpha, recipe.optimizer_type, recipe.learning_rate) == (
        256,
        256.0,
        "Prodigy",
        1.0,
    )
    assert (recipe.max_train_epochs, recipe.save_every_n_epochs, recipe.gradient_accumulation_steps) == (100, 25, 4)
    assert (recipe.text_encoder_lr, recipe.save_precision, recipe.t5xxl_max_token_length) == (1.0, "float", 512)
    assert (recipe.lr_scheduler, recipe.timestep_sampling, recipe.guidance_scale) == (
        "cosine_with_restarts",
        "flux_shift",
        1,
    )


def test_the_default_recipe_is_what_a_careful_person_would_choose() -> None:
    recipe = resolve_recipe("default", {}).recipe
    assert recipe.dataset_keys == {"enable_bucket": True, "max_bucket_reso": 1536}
    assert 16 <= recipe.network_dim <= 64
    assert (recipe.text_encoder_lr, recipe.save_precision) == (0, "bf16")


def test_a_flag_wins_over_the_file_and_every_value_says_where_it_came_from() -> None:
    resolved = resolve_recipe("playbook", {"network_dim": 16})
    assert resolved.recipe.network_dim == 16
    assert resolved.origins["network_dim"] == "flag"
    assert resolved.origins["optimizer_type"] == "playbook.toml"
    assert resolved.origins["max_grad_norm"] == "default"


def test_a_flag_for_steps_replaces_the_files_epochs() -> None:
    recipe = resolve_recipe("playbook", {"max_train_steps": 20}).recipe
    assert (recipe.max_train_steps, recipe.max_train_epochs) == (20, None)


def test_alpha_left_out_is_the_rank_so_that_the_scale_is_one() -> None:
    recipe = Recipe(max_train_steps=1, network_dim=8)
    assert recipe.alpha == 8.0


def test_steps_and_epochs_together_are_refused() -> None:
    assert "exactly one of max_train_steps and max_train_epochs" in complaint(
        "miniature", max_train_steps=1, max_train_epochs=1
    )


def test_a_value_out_of_range_names_the_flag_and_the_range() -> None:
    assert "flag --network_dim: network_dim is 0. Allowed: greater than or equal to 1." in complaint(
        "miniature", network_dim=0
    )


def test_an_unknown_key_in_a_file_is_refused_with_its_line_and_the_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("max_train_steps = 5\nnetwork_dimm = 8\n", encoding="utf-8")
    said = complaint(str(file))
    assert "line 2, network_dimm: unknown key 'network_dimm'" in said
    assert "Did you mean 'network_dim'?" in said


def test_a_name_without_a_file_is_refused_with_the_names_there_are() -> None:
    assert "Allowed: default, demo, miniature, miniature-playbook, playbook" in complaint("minature")


@pytest.mark.parametrize("name", ["../escape", "a/b", "", " ", ".hidden"])
def test_a_name_for_the_lora_is_a_plain_file_name(name: str) -> None:
    assert "output_name" in complaint("miniature", output_name=name)


def test_every_default_has_the_type_it_is_declared_with() -> None:
    Recipe.model_validate({**Recipe(max_train_steps=1).model_dump()})


def test_every_field_is_read_somewhere_in_the_code() -> None:
    """A field that nothing reads would be a setting without effect."""
    source = "".join(path.read_text(encoding="utf-8") for path in Path("src/fluxbooth").rglob("*.py"))
    unread = [name for name in Recipe.model_fields if f"recipe.{name}" not in source and f"self.{name}" not in source]
    assert unread == []


def test_ai_toolkits_word_for_the_first_pictures_is_taken_as_its_opposite(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("max_train_steps = 5\nskip_first_sample = false\n", encoding="utf-8")
    resolved = resolve_recipe(str(file), {})
    assert (resolved.recipe.sample_at_first, resolved.origins["sample_at_first"]) == (True, "mine.toml")
    assert not resolve_recipe(str(file), {"skip_first_sample": True}).recipe.sample_at_first
    assert not resolve_recipe(str(file), {"sample_at_first": False}).recipe.sample_at_first
    assert "contradict" in complaint("miniature", skip_first_sample=True, sample_at_first=True)
    assert "skip_first_sample is 1. Allowed: true or false" in complaint("miniature", skip_first_sample=1)


def test_the_set_of_recipe_fields_grows_only_on_purpose() -> None:
    assert set(Recipe.model_fields) == {
        "ae",
        "base_weights",
        "blocks_to_swap",
        "bucket_no_upscale",
        "bucket_reso_steps",
        "clip_l",
        "composite_share",
        "dataset_config",
        "diff_output_preservation",
        "discrete_flow_shift",
        "early_stop_patience",
        "ema_decay",
        "enable_bucket",
        "fp8_products",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "guidance_scale",
        "huber_c",
        "learning_rate",
        "log_tracker_name",
        "log_with",
        "logit_mean",
        "logit_std",
        "loss_type",
        "lr_scheduler",
        "lr_scheduler_num_cycles",
        "lr_scheduler_power",
        "lr_warmup_steps",
        "max_bucket_reso",
        "max_grad_norm",
        "max_timestep",
        "max_validation_steps",
        "max_train_epochs",
        "max_train_steps",
        "memory_floor",
        "min_bucket_reso",
        "min_timestep",
        "mixed_precision",
        "multires_noise_discount",
        "multires_noise_iterations",
        "network_alpha",
        "network_args",
        "network_dim",
        "network_dropout",
        "network_weights",
        "noise_offset",
        "optimizer_args",
        "optimizer_type",
        "output_dir",
        "output_name",
        "pretrained_model_name_or_path",
        "prior_loss_weight",
        "resolution",
        "sample_at_first",
        "sample_every_n_epochs",
        "sample_every_n_steps",
        "sample_guidance_scale",
        "sample_height",
        "sample_prompts",
        "sample_seed",
        "sample_steps",
        "sample_width",
        "save_every_n_epochs",
        "save_every_n_minutes",
        "save_every_n_steps",
        "save_format",
        "save_last_n_epochs",
        "save_last_n_steps",
        "save_precision",
        "save_state_every_n_minutes",
        "score_every",
        "seed",
        "sigmoid_scale",
        "t5xxl",
        "t5xxl_max_token_length",
        "text_encoder_lr",
        "timestep_sampling",
        "train_batch_size",
        "use_rslora",
        "validate_every_n_epochs",
        "validate_every_n_steps",
        "validation_seed",
        "validation_split",
        "walk_seed",
        "wandb_run_name",
        "weighting_scheme",
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_rate_that_is_no_positive_number_is_refused(value: float) -> None:
    assert "flag --learning_rate: learning_rate is" in complaint("miniature", learning_rate=value)


def test_prodigy_takes_one_rate_for_both_parts_or_none_for_clip() -> None:
    for rate in (0.0, 1.0):
        resolve_recipe("playbook", {"text_encoder_lr": rate})
    assert "text_encoder_lr: Prodigy estimates one rate for all" in complaint("playbook", text_encoder_lr=0.5)


def test_an_optimizers_name_may_be_written_in_any_case() -> None:
    for written, name in (
        ("prodigy", "Prodigy"),
        ("ADAMW8BIT", "AdamW8bit"),
        ("adamwschedulefree", "AdamWScheduleFree"),
    ):
        assert Recipe.model_validate({"max_train_steps": 1, "optimizer_type": written}).optimizer_type == name
    assert "optimizer_type" in complaint("miniature", optimizer_type="Adamw9")


def test_warm_up_is_whole_steps_or_a_share_of_them() -> None:
    for given, kept in ((20, "20"), (20.0, "20"), (0, "0"), (0.05, "0.05")):
        recipe = Recipe.model_validate({"max_train_steps": 1, "lr_warmup_steps": given})
        assert str(recipe.lr_warmup_steps) == kept
    assert "a whole number of steps, or below 1 a share" in complaint("miniature", lr_warmup_steps=1.5)


def test_rank_stabilized_scale_is_in_the_alpha_of_the_file() -> None:
    recipe = Recipe(max_train_steps=1, network_dim=16, network_alpha=8, use_rslora=True)
    assert recipe.alpha / 16 == pytest.approx(8 / 16**0.5)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("train_blocks", "'train_blocks' is not name=value"),
        ("train_blocks=some", "train_blocks is 'some'; it can be all, double or single"),
        ("loraplus_lr_ratio=0", "loraplus_lr_ratio is '0'; it is a number above 0"),
        ("use_dora=perhaps", "use_dora is 'perhaps'; it can be true or false"),
        ("rank_dropout=0.1", "network_dropout"),
        ("img_attn_dim=-1", "img_attn_dim is '-1'; it is a rank from 0"),
        ("in_dims=[4,4,4,4,4]", "the layers before the blocks are not trained"),
        ("network_reg_dims=img_attn", "'img_attn' is not pattern=number"),
        ("network_reg_dims=img_(attn=4", "'img_(attn' is no pattern"),
        ("network_reg_lrs=img_attn=0", "it is a rate above 0"),
        ("conv_dim=4", "'conv_dim' is not known; known are train_blocks"),
    ],
)
def test_network_args_that_cannot_be_are_refused(argument: str, said: str) -> None:
    assert said in complaint("miniature", network_args=(argument,))


def test_one_ratio_holds_for_both_parts_and_its_own_wins() -> None:
    arguments = ("loraplus_lr_ratio=4", "loraplus_text_encoder_lr_ratio=2", "train_blocks=single")
    network = Recipe(max_train_steps=1, network_args=arguments).network
    assert (network.transformer_up_ratio, network.text_up_ratio, network.train_blocks) == (4, 2, "single")


@pytest.mark.parametrize(("argument", "is_on"), [("use_dora=True", True), ("dora_wd=true", True), ("dora_wd=0", False)])
def test_dora_goes_by_each_of_its_names(argument: str, is_on: bool) -> None:
    assert Recipe(max_train_steps=1, network_args=(argument,)).network.use_dora is is_on
    assert "use_dora is given twice" in complaint("miniature", network_args=(argument, "weight_decompose=true"))


def test_dora_needs_the_weights_as_they_are() -> None:
    for form in ("fp8", "int8", "nf4"):
        said = complaint("miniature", network_args=("use_dora=true",), base_weights=form)
        assert f"base_weights: use_dora learns how long the rows of FLUX's matrices are, and in {form}" in said


def test_fp8_products_are_of_matrices_held_in_fp8() -> None:
    for chosen in ({}, {"base_weights": "auto"}, {"base_weights": "fp8"}, {"fp8_base": True}):
        assert resolve_recipe("default", {"fp8_products": True, **chosen}).recipe.base_weights == "fp8"
    assert resolve_recipe("default", {"fp8_products": False}).recipe.base_weights == "auto"


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"base_weights": "full"}, "fp8_products: what is multiplied in fp8 is held in fp8, and base_weights is full"),
        ({"base_weights": "nf4"}, "fp8_products: what is multiplied in fp8 is held in fp8, and base_weights is nf4"),
        ({"network_dropout": 0.1}, "fp8_products: network_dropout is computed by a pass that has none"),
        ({"network_args": ("use_dora=true",)}, "fp8_products: use_dora learns how long"),
        (
            {"mixed_precision": "fp16"},
            "fp8_products: what they give is bfloat16; set mixed_precision to bf16, not fp16",
        ),
        ({"mixed_precision": "no"}, "fp8_products: what they give is bfloat16; set mixed_precision to bf16, not no"),
    ],
)
def test_what_there_are_no_fp8_products_beside_is_refused(others: dict[str, object], said: str) -> None:
    assert said in complaint("default", fp8_products=True, **others)


def test_ranks_by_pattern_come_before_those_of_a_kind_as_in_kohya() -> None:
    arguments = ("single_dim=2", "network_reg_dims=img_attn=8,txt_mlp_0=0", "network_reg_lrs=mod=1e-5")
    network = Recipe(max_train_steps=1, network_args=arguments).network
    assert network.ranks == (("img_attn", 8), ("txt_mlp_0", 0), ("single_blocks.*linear", 2))
    assert network.rates == (("mod", 1e-5),)


def test_the_alpha_that_is_given_is_that_of_every_rank_and_left_out_the_scale_is_one() -> None:
    assert Recipe(max_train_steps=1, network_alpha=8).alpha_of(2) == 8
    assert Recipe(max_train_steps=1).alpha_of(2) == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"min_timestep": 500, "max_timestep": 500}, "--min_timestep: 500 is not below max_timestep, 500"),
        ({"weighting_scheme": "logit_normal"}, "flux_shift does not read it"),
        ({"optimizer_type": "adamwschedulefree", "ema_decay": 0.9}, "AdamWScheduleFree publishes an average already"),
        ({"network_dropout": 1.0}, "network_dropout is 1.0"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(flags: dict[str, object], said: str) -> None:
    assert said in complaint("miniature", **flags)


@pytest.mark.parametrize("of", ["epochs", "steps"])
def test_keeping_the_last_of_files_that_are_never_written_is_refused(of: str) -> None:
    flags = {f"save_last_n_{of}": 3, f"save_every_n_{of}": None}
    assert f"save_last_n_{of}: there are no such files without save_every_n_{of}" in complaint("miniature", **flags)
    resolve_recipe("miniature", {f"save_last_n_{of}": 3, f"save_every_n_{of}": 1})


def test_patience_without_scores_and_scores_without_files_are_refused() -> None:
    assert "early_stop_patience: nothing is scored without score_every" in complaint("miniature", early_stop_patience=2)
    assert "score_every: there is one LoRA file, the last" in complaint("miniature", score_every=2)
    resolve_recipe("miniature", {"score_every": 2, "save_every_n_steps": 10, "early_stop_patience": 2})


def test_kohyas_fp8_base_is_base_weights_and_does_not_contradict_it() -> None:
    resolved = resolve_recipe("default", {"fp8_base": True})
    assert (resolved.recipe.base_weights, resolved.origins["base_weights"]) == ("fp8", "flag")
    with pytest.raises(UserError, match="fp8_base and base_weights contradict each other"):
        resolve_recipe("default", {"fp8_base": True, "base_weights": "full"})
