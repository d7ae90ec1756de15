#!/usr/bin/env bash
# Drop the machine's page cache and say how much memory that made free.
#
# On a machine whose GPU and CPU share one pool, CUDA counts cached file pages as used memory: after a download of
# 34 GB a model may seem not to fit. Nothing is lost by dropping them; the next read comes from the disk.
#
# usage: flush.sh [FILE]        FILE: the kernel's switch, /proc/sys/vm/drop_caches where nothing else is named
#
# As root on the host, or as the compose service `flush`, which has this one file of the host and nothing else.
# Exit code 0 also where it may not: training works without it, and `train` waits for this service.
set -euo pipefail

switch=${1:-/proc/sys/vm/drop_caches}

free_kib() {
  local name kib
  while read -r name kib _; do
    [[ $name == MemFree: ]] && printf '%s' "$kib" && return
  done </proc/meminfo
}

# Tenths of a GiB without awk or bc, which a small image may lack.
gib() { printf '%d.%d GiB' $(($1 / 1048576)) $(($1 % 1048576 * 10 / 1048576)); }

before=$(free_kib)
sync # dirty pages cannot be dropped
if ! (echo 3 >"$switch") 2>/dev/null; then
  printf 'flush: the page cache stays as it is: this process may not write %s (it takes root, and an engine that is not rootless)\n' "$switch"
  exit 0
fi
after=$(free_kib)
gained=$((after - before))
printf 'flush: the page cache is dropped: %s came back, %s free now\n' "$(gib $((gained > 0 ? gained : 0)))" "$(gib "$after")"
