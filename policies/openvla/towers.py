"""The two vision towers: timm Vision Transformers whose sizes are read from the shapes of their tensors.

OpenVLA takes the patch features of the *second to last* block, before the final norm, and leaves the class and register
tokens out. The last block, the final norm and SigLIP's attention pooling are in the checkpoint but never used: they
are checked for and not kept (87 MB in bfloat16), so that every block that exists here runs.

Differs from the checkpoint in one name: its LayerScale parameters are called `scale_factor`, timm's `gamma`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from policies.errors import BadArtifact, MissingExtra

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

Shapes = Mapping[str, tuple[int, ...]]
"""Parameter name -> shape."""


@dataclass(frozen=True)
class TowerConfig:
    """The sizes of one complete tower, the unused parts included.

    Args:
        width, depth, mlp_width, num_heads: of the transformer; one block less than `depth` is used.
        patch_size, image_size: [pixels].
        class_token: whether there is one.
        n_registers: number of register tokens.
        layer_scale: whether each block scales its two branches by a learned vector.
        attention_pool: whether the checkpoint has an attention pooling head.
    """

    width: int
    depth: int
    mlp_width: int
    num_heads: int
    patch_size: int
    image_size: int
    class_token: bool = False
    n_registers: int = 0
    layer_scale: bool = False
    attention_pool: bool = False

    @property
    def n_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def from_shapes(cls, shapes: Shapes, num_heads: int, image_size: int) -> TowerConfig:
        """Read the sizes from a tower's tensors, in timm's names.

        Raises:
            BadArtifact: a tensor that tells a size is missing.
        """
        try:
            blocks = {int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))}
            return cls(
                width=shapes["patch_embed.proj.weight"][0],
                depth=max(blocks) + 1,
                mlp_width=shapes["blocks.0.mlp.fc1.weight"][0],
                num_heads=num_heads,
                patch_size=shapes["patch_embed.proj.weight"][-1],
                image_size=image_size,
                class_token="cls_token" in shapes,
                n_registers=shapes["reg_token"][1] if "reg_token" in shapes else 0,
                layer_scale="blocks.0.ls1.gamma" in shapes,
                attention_pool=any(name.startswith("attn_pool.") for name in shapes),
            )
        except (KeyError, ValueError) as error:
            raise BadArtifact(
                f"the sizes of a vision tower cannot be read, {error} is missing; the checkpoint holds "
                f"{len(shapes)} tensors of it. Fetch it again, or check that it is an OpenVLA checkpoint."
            ) from error

    def build(self) -> VisionTransformer:
        """The complete tower as timm has it, randomly initialised."""
        try:
            from timm.models.vision_transformer import VisionTransformer
        except ImportError as error:
            raise MissingExtra(
                "openvla needs timm, which is not installed: `pip install 'steer-agents[openvla]'`."
            ) from error
        if self.width % self.num_heads or self.image_size % self.patch_size or self.depth < 2:
            raise BadArtifact(
                f"a vision tower of width {self.width}, {self.num_heads} heads and depth {self.depth}, for pictures of "
                f"{self.image_size} pixels in patches of {self.patch_size}, cannot be built: heads must divide the width, "
                "patches the picture, and there must be at least two blocks."
            )
        return VisionTransformer(
            img_size=self.image_size,
            patch_size=self.patch_size,
            num_classes=0,
            global_pool="map" if self.attention_pool else "",
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_ratio=(self.mlp_width + 0.5) / self.width,  # timm rounds width times ratio down
            init_values=1e-5 if self.layer_scale else None,
            class_token=self.class_token,
            reg_tokens=self.n_registers,
            no_embed_class=True,
        )


def used_part(tower: VisionTransformer) -> VisionTransformer:
    """Drop, in place, what the features do not pass through: last block, final norm, pooling."""
    tower.prune_intermediate_layers([len(tower.blocks) - 2], prune_norm=True)
    return tower


class VisionBackbone(nn.Module):
    """Both towers, their patch features side by side.

    Args:
        featurizer, fused_featurizer: sizes of DINOv2 and SigLIP; both must give equally many patches.
    """

    def __init__(self, featurizer: TowerConfig, fused_featurizer: TowerConfig) -> None:
        super().__init__()
        if featurizer.n_patches != fused_featurizer.n_patches:
            raise BadArtifact(
                f"the vision towers see {featurizer.n_patches} and {fused_featurizer.n_patches} patches; they must agree."
            )
        self.n_patches = featurizer.n_patches
        self.width = featurizer.width + fused_featurizer.width
        self.featurizer = used_part(featurizer.build())
        self.fused_featurizer = used_part(fused_featurizer.build())

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 6, S, S) -> (B, n_patches, D1 + D2)."""
        pairs: list[tuple[Any, torch.Tensor]] = [
            (self.featurizer, pixel_values[:, :3]),
            (self.fused_featurizer, pixel_values[:, 3:]),
        ]
        return torch.cat([tower(pixels)[:, tower.num_prefix_tokens :] for tower, pixels in pairs], dim=-1)
