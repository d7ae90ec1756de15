"""The last step of Dockerfile.train's dependency layer: what a training run imports is there and works together.

It stands in the build because a container would find out minutes later, after the weights were read: for instance, peft
raises at the first LoRA layer when the image holds a torchao that is too old for it.
"""

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, FluxTransformer2DModel
from peft import LoraConfig, inject_adapter_in_model
from transformers import CLIPTextModel, T5EncoderModel

USED = (AutoencoderKL, CLIPTextModel, FluxTransformer2DModel, T5EncoderModel, init_empty_weights)


def main() -> None:
    """Train one step of a LoRA on a model of one layer."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), model)
    model(torch.ones(1, 4)).sum().backward()
    print(f"torch {torch.__version__}: {len(USED)} imports and one LoRA layer work")


if __name__ == "__main__":
    main()
