#!/usr/bin/env bash
# Start ComfyUI on the folders that docker-compose.yml mounts. Arguments go on to ComfyUI's main.py.
set -euo pipefail

user=/comfyui/user     # settings, saved workflows, database
output=/comfyui/output # pictures
profile=$user/default  # ComfyUI's name for the one user of a server without --multi-user

for folder in "$user" "$output" "$profile"; do
  if [[ ! -w $folder ]]; then
    printf 'comfyui: %s cannot be written by %s:%s. Set PUID and PGID in .env to the owner of comfyui_user/ and output/\n' \
      "$folder" "$(id -u)" "$(id -g)" >&2
    exit 1
  fi
done

# Without this setting the first visit opens a dialog over the page.
settings=$profile/comfy.settings.json
[[ -e $settings ]] || printf '{"Comfy.TutorialCompleted": true}\n' >"$settings"

mkdir -p /tmp/input

# One pool for GPU and CPU (a DGX Spark): nvidia-smi knows no memory of the GPU's own there. Then
#   --highvram      models stay on the GPU; "moving them to the CPU" would copy them within the same pool
#   --disable-mmap  each tensor is copied out of its file, instead of keeping the file mapped beside the copy
# Flags of the caller's own that choose between such modes win.
flags=()
memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader 2>/dev/null || true)
if [[ $memory == *N/A* || $memory == *"Not Supported"* ]] && [[ " $* " != *vram* && " $* " != *--gpu-only* && " $* " != *--cpu* ]]; then
  flags=(--highvram --disable-mmap)
  printf 'comfyui: GPU and CPU share one memory: %s\n' "${flags[*]}"
fi

# exec: ComfyUI itself must get the SIGTERM that init passes on.
# The database's default place is in the application's folder, whatever --user-directory says, and that is read-only.
# API nodes call a service outside; this container has no way there.
exec python3 main.py --listen 0.0.0.0 --port 8188 --disable-auto-launch --disable-api-nodes \
  --user-directory "$user" --output-directory "$output" --input-directory /tmp/input --temp-directory /tmp \
  --database-url "sqlite:///$user/comfyui.db" "${flags[@]}" "$@"
