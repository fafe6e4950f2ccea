"""Eyes that hear: a tower of convolutions per camera, told by the instruction's words what to look for.

FiLM (Perez et al. 2018, arXiv 1709.07871) by the words, keypoints by spatial softmax (Levine et al. 2016, arXiv 1504.00702). The
first two keypoints of each camera are taught to be the object and the target of the instruction (a heat map, as in pose
estimation), and a head turns all of them into points in space. That is the grounding without which behaviour cloning
of this size never learns which word means which thing.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from policies.tiny_vla.config import N_BINS, SPECIAL, TinyVLAConfig

N_AGENT_POS = 8
N_POINTS = 8
"""Object (3) and target (3) of the instruction [m], sine and cosine of the turn that grasps across the object."""
POINT_SCALE = 0.1
"""Points are learnt relative to the tcp, in units of 10 cm."""


class Tower(nn.Module):
    """(B, 3, S, S) picture, (B, C) instruction -> (B, 3 K) keypoints: all x, then all y in [-1, 1], then how sure.

    Coarse maps (S/4), told by the words what to look for, say which thing; fine maps (S/2) say where exactly. The first two keypoints
    are the object and the target of the instruction; the others are free.
    """

    line: torch.Tensor

    def __init__(self, config: TinyVLAConfig, n_condition: int) -> None:
        super().__init__()
        c, K = config.channels, config.n_keypoints
        self.side = config.camera_size // 2
        self.stem = nn.Conv2d(3, c, 5, stride=2, padding=2)
        self.conv1 = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(2 * c, 2 * c, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * c, 2 * c, 3, padding=2, dilation=2)
        self.film = nn.Linear(n_condition, 12 * c)
        self.coarse, self.fine = nn.Conv2d(2 * c, K, 1), nn.Conv2d(c, K, 3, padding=1)
        self.register_buffer("line", torch.linspace(-1, 1, self.side), persistent=False)

    def forward(self, picture: torch.Tensor, condition: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Also returns (B, 2, S/2 * S/2) log-probabilities of where the object and the target are."""
        told = self.film(condition)[:, :, None, None].chunk(6, dim=1)
        fine = functional.relu(self.stem(picture))
        h = functional.relu(torch.addcmul(told[1], self.conv1(fine), 1 + told[0]))
        h = h + functional.relu(torch.addcmul(told[3], self.conv2(h), 1 + told[2]))
        h = h + functional.relu(torch.addcmul(told[5], self.conv3(h), 1 + told[4]))
        coarse = functional.interpolate(self.coarse(h), scale_factor=2, mode="bilinear", align_corners=False)
        heat = (coarse + self.fine(fine)).flatten(2)  # (B, K, S*S/4)
        logs = heat.log_softmax(dim=-1)
        weight = logs.exp().unflatten(2, (self.side, self.side))
        x, y = weight.sum(2) @ self.line, weight.sum(3) @ self.line
        return torch.cat([x, y, torch.tanh(heat.amax(-1) / 8)], dim=1), logs[:, :2]


class Vision(nn.Module):
    """Towers of all cameras, heard instruction, and the head that says where the named things are.

    Adverbs are not heard: how a thing is done does not change which thing is meant.
    """

    heard: torch.Tensor

    def __init__(self, config: TinyVLAConfig) -> None:
        super().__init__()
        width = 48
        self.words = nn.Embedding(config.vocab_size - N_BINS, width)
        self.places = nn.Parameter(torch.zeros(config.max_words, width))
        self.listen = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU())
        self.towers = nn.ModuleList(Tower(config, 2 * width) for _ in config.cameras)
        self.n_features = len(config.cameras) * config.n_keypoints * 3
        self.locate = nn.Sequential(
            nn.Linear(self.n_features + N_AGENT_POS + 2 * width, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
            nn.Linear(256, N_POINTS),
        )  # fmt: skip
        names = (*SPECIAL, *config.words)
        self.register_buffer(
            "heard",
            torch.tensor([word not in SPECIAL and word not in config.adverbs for word in names]),
            persistent=False,
        )

    def forward(
        self, pixels: torch.Tensor, words: torch.Tensor, agent_pos: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Look at pictures with an instruction in mind.

        Args:
            pixels: (B, cameras, S, S, 3) uint8; words: (B, L) ids; agent_pos: (B, 8) scaled.
        Returns:
            (B, F) keypoints, then the (8) points they mean; (B, cameras, 2, S/2 * S/2) log-probabilities of object and target.
        """
        heard = self.heard[words][:, :, None].float()
        each = self.listen(self.words(words) + self.places[: words.shape[1]])
        condition = (each * heard).sum(1) / heard.sum(1).clamp(min=1)
        pictures = pixels.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
        towers = [tower(pictures[:, i], condition) for i, tower in enumerate(self.towers)]
        keypoints = torch.cat([seen for seen, _ in towers], dim=1)
        points = self.locate(torch.cat([keypoints, agent_pos, condition], dim=1))
        return torch.cat([keypoints, points], dim=1), torch.stack([heat for _, heat in towers], dim=1)
