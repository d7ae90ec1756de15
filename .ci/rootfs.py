#!/usr/bin/env python3
"""Write a small root file system as a tar to standard output, made of this machine's own Debian packages.

usage: rootfs.py PACKAGE[,PACKAGE...] [OVERLAY_FOLDER]

The packages and all they depend on are taken as they are installed here, so no registry and no mirror is asked.
Files below OVERLAY_FOLDER are added on top. No account of this machine goes in: /etc/passwd is Debian's own template.
The certificates do: what this machine trusts, its containers must trust to reach the same package registry.
"""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

NOT_NEEDED = re.compile(r"/usr/share/(doc|man|locale|info|lintian|bug)(/|$)|/__pycache__(/|$)")
FOLDERS = ("dev", "etc", "home", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var", "var/tmp")
OPEN_FOLDERS = {"tmp", "var/tmp"}
TEMPLATES = {
    "etc/passwd": "/usr/share/base-passwd/passwd.master",
    "etc/group": "/usr/share/base-passwd/group.master",
    "etc/nsswitch.conf": "/usr/share/libc-bin/nsswitch.conf",
    "etc/ssl/certs/ca-certificates.crt": "/etc/ssl/certs/ca-certificates.crt",
}


def installed() -> dict[str, list[str]]:
    """Installed package -> what it depends on, the first choice of each alternative that is installed.

    A name that several packages provide stands for the first of them.
    """
    fields = "${Package}\t${db:Status-Abbrev}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
    out = subprocess.run(["dpkg-query", "-W", "-f", fields], check=True, capture_output=True, text=True).stdout
    rows = [line.split("\t") for line in out.splitlines()]
    rows = [row for row in rows if row[1].strip() == "ii"]
    provider = {row[0]: row[0] for row in rows}
    for name, _, _, provides in rows:
        for virtual in names(provides):
            provider.setdefault(virtual, name)

    depends: dict[str, list[str]] = {}
    for name, _, wanted, _ in rows:
        depends[name] = []
        for alternatives in wanted.split(","):
            found = [provider[choice] for choice in names(alternatives.replace("|", ",")) if choice in provider]
            depends[name] += found[:1]
    return depends


def names(relation: str) -> list[str]:
    """The package names in a Debian relation: "libc6 (>= 2.36), python3:any" -> ["libc6", "python3"]."""
    bare = (re.sub(r"[\s(:].*", "", part.strip()) for part in relation.split(","))
    return [name for name in bare if name]


def closure(wanted: list[str], depends: dict[str, list[str]]) -> list[str]:
    """`wanted` and everything they depend on. Raises SystemExit for a package that is not installed."""
    missing = [name for name in wanted if name not in depends]
    if missing:
        sys.exit(f"not installed on this machine: {' '.join(missing)} (apt-get install them)")
    seen: set[str] = set()
    todo = list(wanted)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += depends[name]
    return sorted(seen)


def paths_of(packages: list[str]) -> list[Path]:
    """The files, links and folders of `packages`, each at its place behind /usr-merge links, parents first."""
    out = subprocess.run(["dpkg-query", "-L", *packages], check=True, capture_output=True, text=True).stdout
    listed = {Path(line) for line in out.splitlines() if line.startswith("/") and line != "/."}
    real = {path.parent.resolve() / path.name for path in listed if not NOT_NEEDED.search(str(path))}
    return sorted(path for path in real if path.is_symlink() or path.exists())


def write(tar: tarfile.TarFile, packages: list[str], overlay: Path | None) -> None:
    """Fill `tar`: folders and /usr-merge links, the templates, the packages' files, then what lies below `overlay`."""
    done: set[str] = set()

    def add(path: Path, name: str) -> None:
        if name not in done:
            done.add(name)
            tar.add(path, arcname=name, recursive=False)

    for folder in FOLDERS:
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder in OPEN_FOLDERS else 0o755
        tar.addfile(entry)
        done.add(folder)
    for link in (Path("/bin"), Path("/sbin"), Path("/lib"), Path("/lib64")):
        if link.is_symlink():
            add(link, link.name)
    for name, source in TEMPLATES.items():
        add(Path(source), name)
    for path in paths_of(packages):
        add(path, str(path.relative_to("/")))
    if overlay:
        for path in sorted(overlay.rglob("*")):
            add(path, str(path.relative_to(overlay)))
    sys.stderr.write(f"{len(packages)} packages, {len(done)} paths\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    packages = closure(sys.argv[1].split(","), installed())
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.GNU_FORMAT) as archive:
        write(archive, packages, Path(sys.argv[2]) if len(sys.argv) == 3 else None)
