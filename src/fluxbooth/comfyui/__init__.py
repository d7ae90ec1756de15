"""The hand-over to ComfyUI: its HTTP API."""
