"""tiny-vla as a file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from policies import weights
from policies.errors import UnknownName, nearest
from policies.tiny_vla.adapter import TinyVLAPolicy
from policies.tiny_vla.config import TinyVLAConfig
from policies.tiny_vla.model import TinyVLA

KIND = "tiny-vla"


def embedded() -> dict[str, Path]:
    """Name -> weight file of the policies that come with the package."""
    folder = Path(str(files("policies.tiny_vla"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def save(network: TinyVLA, path: str | Path) -> None:
    """Write weights, sizes and words."""
    weights.write(path, KIND, vars(network.config), network.state_dict())


def read(path: str | Path) -> TinyVLA:
    """Read what `save` wrote.

    Raises:
        BadArtifact: no such file, a damaged one, or one of another kind.
    """
    config, tensors = weights.read(path, KIND)
    network = TinyVLA(TinyVLAConfig(**config))
    weights.fill(network, tensors, path)
    return network


def load(argument: str = KIND, **options: Any) -> TinyVLAPolicy:
    """Load an embedded policy by name, or a file written by `save`; options of `TinyVLAPolicy`: adverb, instruction."""
    known = embedded()
    path = known.get(argument or KIND) or Path(argument)
    if not path.is_file():
        raise UnknownName(f"tiny-vla policy {argument!r} is neither embedded nor a file{nearest(argument, known)}")
    return TinyVLAPolicy(read(path), name=path.stem, **options)
