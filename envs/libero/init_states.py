"""LIBERO's fixed initial states: 50 per task, read without unpickling anything but an array of numbers.

The files are torch archives (zip files) whose `data.pkl` is one pickled numpy array. `torch.load(weights_only=True)` refuses it, and
`weights_only=False` would run whatever a file asks for. So the pickle is read with an unpickler that knows four names, those that numpy
writes an array of floats with; any other raises before anything of it is called.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from envs.errors import BadInitState

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding="latin1": text.encode("latin1"),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise BadInitState(f"it asks for {module}.{name}, and only arrays of numbers are read")
        return _ALLOWED[module, name]


def load_init_states(path: str | Path) -> np.ndarray:
    """The (n, 1 + n_qpos + n_qvel) float64 rows (time, positions, velocities) of a `.pruned_init` file.

    Raises:
        BadInitState: no such file, another format, or a pickle that holds anything but an array of numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            rows = _ArrayUnpickler(io.BytesIO(archive.read(name))).load()
    except BadInitState as error:
        raise BadInitState(f"initial states {path}: {error}.") from None
    except (
        OSError,
        zipfile.BadZipFile,
        StopIteration,
        pickle.UnpicklingError,
        TypeError,
        ValueError,
        EOFError,
    ) as error:
        raise BadInitState(f"initial states {path} cannot be read: {error or type(error).__name__}.") from error
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype != np.float64 or not np.isfinite(rows).all():
        raise BadInitState(
            f"initial states {path}: expected a finite (n, d) array of float64, got {type(rows).__name__}."
        )
    return rows
