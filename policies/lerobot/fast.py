"""The FAST action tokenizer of pi0-FAST (Pertsch et al. 2025, arXiv 2501.09747), for decoding, without its remote code.

LeRobot loads it by running Python that comes with the tokenizer. Decoding needs three things of it only: the byte-pair
vocabulary (tokenizer.json) and the numbers `min_token` and `scale` (processor_config.json). We read these.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from policies.errors import BadArtifact


class FastTokenizer:
    """What LeRobot's pi0-FAST uses to turn action tokens into DCT coefficients.

    Args:
        folder: with tokenizer.json and processor_config.json.
    Raises:
        BadArtifact: a file or a number is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        from transformers import PreTrainedTokenizerFast

        folder = Path(folder)
        try:
            numbers: dict[str, Any] = json.loads((folder / "processor_config.json").read_text())
            self.min_token, self.scale = int(numbers["min_token"]), float(numbers["scale"])
            if not (folder / "tokenizer.json").is_file():
                raise FileNotFoundError("tokenizer.json")
        except (OSError, KeyError, ValueError) as error:
            raise BadArtifact(
                f"FAST tokenizer in {folder}: {error!r} is missing or damaged. It needs tokenizer.json and "
                "processor_config.json with 'min_token' and 'scale', as in lerobot/fast-action-tokenizer."
            ) from error
        self.bpe_tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))

    def __call__(self, actions: Any) -> Any:
        """Encoding is for training, which is not done here."""
        raise NotImplementedError("this FAST tokenizer decodes only; train with LeRobot's own.")
