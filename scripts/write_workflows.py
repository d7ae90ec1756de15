"""Write the two bundled workflows: workflows/*.json for ComfyUI's page, workflows/api/*.json for POST /prompt."""

from __future__ import annotations

import json
from pathlib import Path

from fluxbooth.comfyui.workflow import Workflow, flux_workflow
from fluxbooth.host.files import write_text

FOLDER = Path(__file__).parent.parent / "workflows"
WORKFLOWS: dict[str, Workflow] = {
    "base_flux": flux_workflow("a plush toy holding a graphics card in a datacenter"),
    "finetuned_flux": flux_workflow(
        "tjtoy toy holding sparkgpu gpu in a datacenter",
        lora="flux_dreambooth.safetensors",
        filename_prefix="fluxbooth/finetuned",
    ),
}


def write_workflows(folder: Path) -> None:
    """Write every workflow in both forms below `folder`."""
    for name, workflow in WORKFLOWS.items():
        for path, form in ((folder / f"{name}.json", workflow.editor()), (folder / f"api/{name}.json", workflow.api())):
            write_text(path, json.dumps(form, indent=2) + "\n")


if __name__ == "__main__":
    write_workflows(FOLDER)
