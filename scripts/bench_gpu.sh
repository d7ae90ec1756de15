#!/usr/bin/env bash
# What a GPU makes of FLUX.1-dev's full shape with random weights: ranks 16 and 256, fluxbooth's pass and diffusers', with
# less memory and in fewer bits, each held against the first. By its arithmetic it ends within ten minutes on an H100;
# writes a JSON file for each into the folder it is given.
#   scripts/bench_gpu.sh RESULTS_FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
results=${1:?the folder that results are written to}
mkdir -p "$results"
fluxbooth=$( [[ -x .venv/bin/fluxbooth ]] && echo .venv/bin/fluxbooth || echo fluxbooth )

measure() {
  local name=$1
  shift
  local compare=()
  [[ -s $results/rank16.json && $name != rank16 ]] && compare=(--compare "$results/rank16.json")
  printf '\n=== %s: %s\n' "$name" "$*"
  "$fluxbooth" bench --arch flux-dev --resolution 1024 --steps 5 --json "$@" "${compare[@]}" | tee "$results/$name.json"
}

measure rank16 --network_dim 16
# A little more than the plan takes that recomputes norms and activations of all blocks, and no other.
measure rank16-norms-recomputed --network_dim 16 --memory 42.5
measure rank16-diffusers --network_dim 16 --diffusers_pass
measure rank16-recomputed --network_dim 16 --gradient_checkpointing
measure rank16-24gb --network_dim 16 --base_weights full --memory 23.5
measure rank16-12gb --network_dim 16 --base_weights full --memory 11.5
measure rank16-fp8 --network_dim 16 --base_weights fp8
measure rank16-fp8-products --network_dim 16 --fp8_products
measure rank16-nf4 --network_dim 16 --base_weights nf4 --gradient_checkpointing
measure rank256 --network_dim 256 --optimizer_type Prodigy
measure rank256-diffusers --network_dim 256 --optimizer_type Prodigy --diffusers_pass
