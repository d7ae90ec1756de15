#!/usr/bin/env bash
# A stand-in for the NGC PyTorch image, for machines that cannot or should not pull it (about 20 GB).
#
# usage: make_test_base.sh [TAG]        TORCH_SPEC=torch==2.13.0 names another torch
#
# It is this machine's own Debian, Python and CPU torch in one `docker import`. It has the NGC image's traps:
#   - pip is held by a constraints file that names every package of the image, some older than fluxbooth needs;
#   - numpy is of the 1.x line;
#   - a torchao lies there that peft refuses (25.09 brings 0.13, peft 0.21 wants 0.16 and raises when it sees less).
# What it cannot show: CUDA, arm64, NVIDIA's own build of torch.
set -euo pipefail

tag=${1:-local/ngc-stand-in:cpu}
torch=${TORCH_SPEC:-torch==2.13.0}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# As in the 25.0x images: numpy 1, and packages older than fluxbooth's dependencies ask for.
old=(numpy==1.26.4 pillow==11.3.0 typing_extensions==4.15.0 packaging==23.2)

# An image made by these very scripts is kept: another one, though equal, would make every build on it start anew.
key=$(cat "${BASH_SOURCE[0]}" "$here/rootfs.py" - <<<"$torch" | sha256sum | cut -d ' ' -f 1)
if [[ $(docker image inspect --format '{{index .Config.Labels "made-from"}}' "$tag" 2>/dev/null) == "$key" ]]; then
  printf '%s is there already\n' "$tag"
  exit
fi

packages=(
  base-files base-passwd bash coreutils dash debianutils diffutils findutils grep gzip hostname libc-bin login mawk
  passwd procps sed tar util-linux ca-certificates media-types libgomp1 libstdc++6 python3 python3-pip python3-venv
)

absent=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || absent+=("$package")
done
if ((${#absent[@]})); then
  [[ $(id -u) -eq 0 ]] || { printf 'apt-get install these first: %s\n' "${absent[*]}" >&2; exit 1; }
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${absent[@]}"
fi

overlay=$(mktemp -d)
trap 'rm -rf "$overlay"' EXIT

export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
/usr/bin/python3 -m pip install --quiet --no-compile --ignore-installed --no-warn-script-location --root "$overlay" \
  "$torch" "${old[@]}"

site=("$overlay"/usr/local/lib/python3*/dist-packages)
mkdir -p "${site[0]}"/torchao{,-0.13.0.dist-info} "$overlay/etc/pip"
printf '"""Stands where the NGC image has its torchao; nothing may import it."""\n' >"${site[0]}/torchao/__init__.py"
printf 'Metadata-Version: 2.1\nName: torchao\nVersion: 0.13.0+git\n' >"${site[0]}/torchao-0.13.0.dist-info/METADATA"
printf 'torchao/__init__.py,,\ntorchao-0.13.0.dist-info/METADATA,,\ntorchao-0.13.0.dist-info/RECORD,,\n' \
  >"${site[0]}/torchao-0.13.0.dist-info/RECORD"
/usr/bin/python3 -m pip list --format freeze --path "${site[0]}" >"$overlay/etc/pip/constraint.txt"

before=$(docker image ls --quiet "$tag")
/usr/bin/python3 "$here/rootfs.py" "$(IFS=,; printf '%s' "${packages[*]}")" "$overlay" | docker import \
  --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
  --change 'ENV PIP_CONSTRAINT=/etc/pip/constraint.txt PIP_BREAK_SYSTEM_PACKAGES=1' \
  --change 'WORKDIR /workspace' --change "LABEL made-from=$key" - "$tag" >/dev/null
[[ -z $before ]] || docker image rm "$before" >/dev/null || true # nothing names it now; what runs on it keeps it
docker image inspect --format "$tag {{.Architecture}}, {{.Size}} bytes" "$tag"
