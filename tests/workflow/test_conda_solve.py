"""The conda section of every environment file, solved and installed by a real solver from a channel on this disk.

The channel is made here, of packages with true metadata and no programs in them. That shows that the files are well formed, that
their specifications can be met together, and which versions they choose. It does not show what conda-forge offers today.
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from pathlib import Path

import pytest
import yaml
from rattler import Channel, ChannelConfig, Gateway, VirtualPackage, install, solve
from rattler.exceptions import SolverError
from rattler.index import index_fs

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "environment.yml", *sorted((ROOT / "envs").glob("*.yaml"))]
# As conda-forge names, builds and links them; `python_abi` is what keeps a build of pip apart from another Python.
PACKAGES = [
    ("linux-64", "python", "3.10.19", 0, ["openssl >=3.0,<4.0a0"]),
    ("linux-64", "python", "3.11.7", 0, ["openssl >=3.0,<4.0a0"]),
    ("linux-64", "python", "3.11.14", 0, ["openssl >=3.5,<4.0a0"]),
    ("linux-64", "python", "3.12.1", 0, ["openssl >=3.0,<4.0a0"]),
    ("linux-64", "openssl", "1.1.1w", 0, []),
    ("linux-64", "openssl", "3.5.4", 0, []),
    ("noarch", "pip", "24.0", 0, ["python >=3.8", "setuptools", "wheel"]),
    ("noarch", "pip", "26.0", 0, ["python >=3.12", "setuptools", "wheel"]),
    ("noarch", "pip", "25.3", 0, ["python >=3.9,<3.13.0a0", "setuptools", "wheel"]),
    ("noarch", "setuptools", "80.9.0", 0, ["python >=3.9"]),
    ("noarch", "wheel", "0.45.1", 0, ["python >=3.9"]),
]


def channel(folder: Path, packages=PACKAGES) -> ChannelConfig:
    """Write a channel named conda-forge below ``folder``; return the configuration in which names mean folders there."""
    for subdir in ("linux-64", "noarch"):
        (folder / "conda-forge" / subdir).mkdir(parents=True)
    for subdir, name, version, number, depends in packages:
        build = f"h0000000_{number}"
        about = {"name": name, "version": version, "build": build, "build_number": number, "depends": depends}
        about |= {"subdir": subdir} | ({"noarch": "generic"} if subdir == "noarch" else {})
        text = f"{name} {version}\n".encode()
        placed = f"share/{name}/version"
        paths = {"paths_version": 1, "paths": [{"_path": placed, "path_type": "hardlink", "size_in_bytes": len(text)}]}
        members = {
            "info/index.json": json.dumps(about).encode(),
            "info/paths.json": json.dumps(paths).encode(),
            "info/files": f"{placed}\n".encode(),
            placed: text,
        }
        with tarfile.open(folder / "conda-forge" / subdir / f"{name}-{version}-{build}.tar.bz2", "w:bz2") as archive:
            for member, content in members.items():
                header = tarfile.TarInfo(member)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
    asyncio.run(index_fs(folder / "conda-forge"))
    return ChannelConfig(channel_alias=folder.as_uri() + "/")


def solved(path: Path, known: ChannelConfig, cache: Path):
    """Solve what a file names beside its pip section, from the channels that it names."""
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    specifications = [entry for entry in said["dependencies"] if isinstance(entry, str)]
    channels = [Channel(name, known) for name in said["channels"]]
    gateway = Gateway(cache_dir=cache)
    linux = [p.into_generic() for p in VirtualPackage.detect()]
    return asyncio.run(
        solve(channels, specifications, gateway=gateway, platforms=["linux-64", "noarch"], virtual_packages=linux)
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_file_is_solved_and_installed(path, tmp_path):
    records = solved(path, channel(tmp_path / "channels"), tmp_path / "cache")
    chosen = {record.name.normalized: str(record.version) for record in records}
    assert chosen == {"python": "3.11.14", "openssl": "3.5.4", "pip": "25.3", "setuptools": "80.9.0", "wheel": "0.45.1"}
    assert all(str(record.url).startswith((tmp_path / "channels" / "conda-forge").as_uri()) for record in records)
    asyncio.run(install(records, tmp_path / "prefix", cache_dir=tmp_path / "packages", show_progress=False))
    assert (tmp_path / "prefix/share/python/version").read_text(encoding="utf-8") == "python 3.11.14\n"
    assert len(list((tmp_path / "prefix/conda-meta").glob("*.json"))) == len(records)


def test_a_channel_without_the_pinned_python_is_refused(tmp_path):
    known = channel(tmp_path / "channels", [entry for entry in PACKAGES if not entry[2].startswith("3.11.")])
    with pytest.raises(SolverError, match=r"python 3\.11\.\*|python =?3\.11"):
        solved(ROOT / "envs/cpu.yaml", known, tmp_path / "cache")
