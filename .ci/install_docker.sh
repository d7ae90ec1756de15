#!/usr/bin/env bash
# A Docker engine with Compose v2 and buildx on Debian, started. Needs root.
#
# usage: install_docker.sh PIDFILE
#
# PIDFILE gets the pid of the engine that this script started. Where an engine answers already, that one is used
# and PIDFILE is not written, so the caller stops what it started and nothing else.
# Exit code 3: no engine can be had on this machine (the reason is on standard error).
set -euo pipefail

pidfile=${1:?usage: install_docker.sh PIDFILE}
log=${pidfile%.pid}.log

no_engine() {
  printf 'no Docker engine: %s\n' "$1" >&2
  exit 3
}

# True when the tools are there, whether or not an engine runs.
has_tools() { command -v dockerd >/dev/null && docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1; }

# bookworm's own engine (20.10) has neither Compose v2 nor named build contexts, so these four come from trixie.
# runc, containerd and with them libc stay bookworm's: the low priority keeps everything else where it is.
add_trixie() {
  local sources=/etc/apt/sources.list.d/debian.sources uri
  uri=$(awk '/^URIs:/ { print $2; exit }' "$sources")
  cat >/etc/apt/sources.list.d/trixie.sources <<SOURCES
Types: deb
URIs: $uri
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
  printf 'Package: *\nPin: release n=trixie\nPin-Priority: 50\n' >/etc/apt/preferences.d/trixie
}

install_tools() {
  [[ $(id -u) -eq 0 ]] || no_engine 'installing one needs root'
  [[ -r /etc/os-release ]] || no_engine 'this is no Debian'
  local codename
  codename=$(awk -F= '$1 == "VERSION_CODENAME" { print $2 }' /etc/os-release)
  local from=''
  case $codename in
    bookworm)
      [[ -r /etc/apt/sources.list.d/debian.sources ]] || no_engine 'no /etc/apt/sources.list.d/debian.sources to read the mirror from'
      add_trixie
      from=/trixie
      ;;
    trixie) ;;
    *) no_engine "only Debian bookworm and trixie are known here, not '$codename'" ;;
  esac
  apt-get -q update || no_engine 'apt-get update failed'
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    "docker.io$from" "docker-cli$from" "docker-compose$from" "docker-buildx$from" runc containerd iptables tini \
    || no_engine 'apt-get install failed'
}

start_engine() {
  [[ $(id -u) -eq 0 ]] || no_engine 'starting one needs root'
  # A session of its own: an interrupt in the terminal must not reach the engine before the containers are gone.
  setsid dockerd --pidfile "$pidfile" >"$log" 2>&1 </dev/null &
  local engine=$!
  for _ in $(seq 300); do
    docker info >/dev/null 2>&1 && return
    kill -0 "$engine" 2>/dev/null || break
    sleep 0.2
  done
  tail -n 15 "$log" >&2
  no_engine 'dockerd did not come up (its last lines are above)'
}

if ! docker info >/dev/null 2>&1; then
  has_tools || install_tools
  start_engine
elif ! has_tools; then
  no_engine 'an engine runs, but docker compose or docker buildx is missing'
fi
docker info --format 'Docker engine {{.ServerVersion}}, {{.Driver}}'
printf 'Docker Compose %s\n' "$(docker compose version --short)"
