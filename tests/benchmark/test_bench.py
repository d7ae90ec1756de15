"""`fluxbooth bench` runs real steps and says what they took, with the floor and the foreseen memory beside it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fluxbooth.benchmark.measure import Question, measure
from fluxbooth.benchmark.shares import KINDS, shares
from fluxbooth.benchmark.show import read_measurement
from fluxbooth.cli import main
from fluxbooth.errors import UserError
from fluxbooth.host.memory import GIB

QUICK = ["bench", "--arch", "miniature", "--resolution", "96", "--steps", "2", "--network_dim", "4"]


def test_a_result_as_json_holds_what_other_tools_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["floor_ratio"] == pytest.approx(result["cpu_seconds_per_sample"] / result["floor_seconds"], rel=1e-3)
    assert result["done_ratio"] > 1, "nothing is faster than its arithmetic"
    assert 0.8 < result["done_share"] < 0.95, "a last block's unread text counts much in six blocks"
    assert min(result["peak_bytes"], result["predicted_peak_bytes"]) > 2**20
    assert result["fastest"] <= result["seconds_per_sample"] <= result["slowest"]
    assert list(result["shares"]) == list(KINDS)
    assert sum(result["shares"].values()) == pytest.approx(1)
    assert all(share > 0 for share in result["shares"].values())


def test_two_results_are_held_against_each_other(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main([*QUICK, "--json"])
    (tmp_path / "before.json").write_text(capsys.readouterr().out)
    assert main([*QUICK, "--diffusers_pass", "--compare", str(tmp_path / "before.json")]) == 0
    said = capsys.readouterr().out
    assert "done of the floor" not in said, "diffusers' pass does it all"
    assert "diffusers_pass False -> True" in said
    assert "floor_ratio" in said


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"floor_ratio": 1}')
    with pytest.raises(UserError, match="is no measurement"):
        read_measurement(tmp_path / "a.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_measurement(tmp_path / "b.json")


def test_what_the_memory_does_not_hold_is_not_begun(capsys: pytest.CaptureFixture[str]) -> None:
    for choice in (["--arch", "flux-dev", "--resolution", "8192", "--base_weights", "full"], ["--memory", "0.01"]):
        assert main(["bench", *choice]) == 1
        assert "--arch flux-dev: needs" in capsys.readouterr().err


def test_the_plan_for_less_memory_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    main([*QUICK, "--base_weights", "full", "--no-gradient_checkpointing", "--json"])
    most = json.loads(capsys.readouterr().out)["predicted_peak_bytes"] - 2**20
    assert main([*QUICK, "--base_weights", "full", "--memory", str(most / GIB), "--json"]) == 0
    with_less = json.loads(capsys.readouterr().out)
    assert "blocks recomputed" in with_less["plan"]
    assert with_less["predicted_peak_bytes"] <= most


def test_fp8_products_are_measured_of_matrices_held_in_fp8(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--fp8_products", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["plan"].startswith("weights in fp8, ")
    assert result["plan"].endswith(" of them turned round")
    assert result["question"]["dtype"] == "bfloat16"
    assert result["shares"]["base matrices"] > 0


def test_fp8_products_beside_other_choices_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    others = ["--base_weights", "nf4", "--mixed_precision", "no", "--diffusers_pass"]
    assert main([*QUICK, "--fp8_products", *others]) == 1
    said = capsys.readouterr().err
    assert all(f"contradicts --{name}" in said for name in ("base_weights nf4", "mixed_precision no", "diffusers_pass"))


@pytest.mark.parametrize("others", [["7"], ["1", "--diffusers_pass"]], ids=["too many", "by diffusers' own pass"])
def test_blocks_that_cannot_be_streamed_are_refused(capsys: pytest.CaptureFixture[str], others: list[str]) -> None:
    assert main([*QUICK, "--blocks_to_swap", *others]) == 1
    assert "blocks_to_swap: " in capsys.readouterr().err


def event(name: str, *shapes: tuple[int, ...], inside: str = "", took: float = 1.0) -> SimpleNamespace:
    """What the profiler tells of one operation."""
    parent = SimpleNamespace(name=inside, cpu_parent=None) if inside else None
    return SimpleNamespace(
        name=name,
        input_shapes=list(shapes),
        cpu_parent=parent,
        self_cpu_time_total=took,
        self_device_time_total=2 * took,
    )


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (event("aten::addmm", (9216,), (1536, 3072), (3072, 9216), (), ()), "base matrices"),
        (event("aten::addmm_", (1536, 3072), (1536, 64), (64, 3072), (), ()), "LoRA matrices"),
        (event("aten::addmm_", (9216, 16), (9216, 1536), (1536, 16), (), ()), "LoRA matrices"),
        (event("aten::mm", (16, 1536), (1536, 12288), (16, 12288)), "LoRA matrices"),
        (event("aten::_scaled_mm", (1536, 3072), (3072, 64), (1536, 1), (1, 64), (64,)), "base matrices"),
        (event("aten::mm", (1536, 3072), (3072, 64)), "LoRA matrices"),
        (event("aten::mm", (16, 1536), (1536, 3072)), "LoRA matrices"),
        (event("aten::mm", (4096, 16), (16, 9216)), "LoRA matrices"),
        (event("aten::mm", (512, 1536), (1536, 128), inside="_CpuAttentionBackward"), "attention"),
        (event("aten::gelu", (1536, 12288)), "elementwise"),
        (event("aten::_fused_adamw_", inside="Optimizer.step#AdamW.step"), "optimizer"),
        (event("aten::stack", inside="input"), "input"),
    ],
)
def test_an_operation_counts_for_what_it_is(seen: SimpleNamespace, kind: str) -> None:
    """At FLUX.1-dev's width and rank 16."""
    assert shares([seen], {16, 48, 64}, 3072, on_gpu=False)[kind] == 1


def test_the_gpus_own_time_counts_where_there_is_one() -> None:
    seen = [event("aten::gelu", took=1.0), event("aten::stack", inside="input", took=3.0)]
    assert shares(seen, {16}, 3072, on_gpu=True)["elementwise"] == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("recomputing", [False, True])
def test_memory_is_foreseen_to_a_tenth(recomputing: bool) -> None:
    """At FLUX.1-dev's width, one double and two single blocks, in bfloat16."""
    question = Question(
        arch="thin",
        resolution=320,
        network_dim=16,
        train_batch_size=1,
        text_tokens=None,
        dtype=torch.bfloat16,
        optimizer_type="AdamW",
        base_weights="full",
        gradient_checkpointing=recomputing,
        blocks_to_swap=0,
        fp8_products=False,
        diffusers_pass=False,
        memory=None,
        steps=1,
    )
    measured = measure(question, torch.device("cpu"))
    assert measured.predicted_peak_bytes == pytest.approx(measured.peak_bytes, rel=0.1)
