"""kohya's launch command as it stands: what has no meaning here is said, what asks for something else is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxbooth.config.kohya_arguments import IDLE_ARGUMENTS
from fluxbooth.config.recipe import Recipe, resolve_recipe
from fluxbooth.errors import UserError


@pytest.fixture(autouse=True)
def _beside_the_recipes(in_repository: Path) -> None:
    pass


def test_an_argument_without_effect_is_said_in_one_line_with_the_reason() -> None:
    resolved = resolve_recipe("playbook", {"sdpa": True, "save_model_as": "safetensors", "discrete_flow_shift": "3.1"})
    assert resolved.recipe == resolve_recipe("playbook", {}).recipe
    assert [note.split(" is not needed: ")[0] for note in resolved.notes] == [
        "sdpa",
        "save_model_as",
        "discrete_flow_shift",
    ]
    assert all(note.count("\n") == 0 for note in resolved.notes)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("save_model_as", "ckpt", 'save_model_as is "ckpt". Allowed: "safetensors"'),
        ("network_module", "networks.oft_flux", 'network_module is "networks.oft_flux"'),
        ("model_prediction_type", "sigma_scaled", 'Allowed: "raw"'),
        ("weighting_scheme", "mode", 'weighting_scheme is "mode"'),
        ("loss_type", "l1", 'loss_type is "l1"'),
        ("huber_schedule", "snr", 'Allowed: "constant"'),
    ],
)
def test_a_value_that_asks_for_something_else_is_refused(name: str, value: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        resolve_recipe("playbook", {name: value})
    assert said in str(raised.value)
    assert f"--{name}" in str(raised.value)


def test_a_configuration_file_of_kohyas_is_read_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        'pretrained_model_name_or_path = "flux1-dev.safetensors"\nnetwork_module = "networks.lora_flux"\n'
        "network_train_unet_only = true\nsdpa = true\nmax_train_steps = 3\nnetwork_dim = 4\n"
    )
    resolved = resolve_recipe(str(file), {})
    assert (resolved.recipe.network_dim, resolved.recipe.text_encoder_lr) == (4, 0.0)
    assert resolved.recipe.weight_files == {"pretrained_model_name_or_path": "flux1-dev.safetensors"}
    assert len(resolved.notes) == 2


def test_kohyas_switch_for_the_transformer_alone_leaves_clip_as_it_is() -> None:
    assert resolve_recipe("playbook", {}).recipe.text_encoder_lr == 1.0
    resolved = resolve_recipe("playbook", {"network_train_unet_only": True})
    assert resolved.recipe.text_encoder_lr == 0.0
    assert resolved.origins["text_encoder_lr"] == "flag"
    with pytest.raises(UserError, match="network_train_unet_only and text_encoder_lr contradict each other"):
        resolve_recipe("playbook", {"network_train_unet_only": True, "text_encoder_lr": 1.0})


@pytest.mark.parametrize(
    ("name", "value", "reader"),
    [
        ("discrete_flow_shift", 3.1, {"timestep_sampling": "shift"}),
        ("sigmoid_scale", 2.0, {"timestep_sampling": "sigmoid"}),
        ("logit_std", 2.0, {"timestep_sampling": "sigma", "weighting_scheme": "logit_normal"}),
        ("huber_c", 0.2, {"loss_type": "huber"}),
        ("multires_noise_discount", 0.5, {"multires_noise_iterations": 6}),
        ("lr_scheduler_power", 2.0, {"lr_scheduler": "polynomial"}),
        ("lr_scheduler_num_cycles", 3, {"lr_scheduler": "cosine_with_restarts"}),
    ],
)
def test_a_field_that_the_others_do_not_read_is_said_and_left_out(
    name: str, value: float, reader: dict[str, object]
) -> None:
    others = {"timestep_sampling": "uniform", "lr_scheduler": "constant"}
    without, unread = (resolve_recipe("playbook", {**others, **given}) for given in ({}, {name: value}))
    assert unread.recipe == without.recipe
    assert [note for note in unread.notes if note.startswith(f"{name} is not needed: only ")]
    assert unread.origins[name] == "default"
    read = resolve_recipe("playbook", {**reader, name: value})
    assert getattr(read.recipe, name) == value
    assert not any(note.startswith(name) for note in read.notes)


def test_no_argument_is_both_idle_and_a_field_of_the_recipe() -> None:
    assert not IDLE_ARGUMENTS.keys() & Recipe.model_fields.keys()
