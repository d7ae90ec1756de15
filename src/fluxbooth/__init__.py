"""From a folder of pictures to a FLUX.1 LoRA that ComfyUI loads."""

__version__ = "0.1.0"
