"""The environment of the other libraries: `bench/.venv-peers`, made when it is first needed.

It holds only what `peers.txt` pins and sees the packages of the environment that made it (PyTorch, Transformers, NumPy)
through a path file: all contestants run on the same builds, in one process, and nothing is installed into the project's
own environment.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".venv-peers"
PINS = HERE / "peers.txt"
_STAMP = ENVIRONMENT / ".installed"
_PATH_FILE = "packages_of_the_project.pth"


def _python() -> Path:
    return ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _wanted() -> str:
    """Changes when the pins or the environment below change."""
    return hashlib.sha256(f"{sys.executable} {sys.version} {PINS.read_text()}".encode()).hexdigest()


def _uv() -> str | None:
    beside = Path(sys.executable).parent / ("uv.exe" if os.name == "nt" else "uv")
    return str(beside) if beside.exists() else shutil.which("uv")


def _run(*command: str) -> None:
    """Run a command; its last line of complaint becomes the error."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = lines[-1].strip() if lines else "no message"
        raise OSError(f"`{Path(command[0]).name} {' '.join(command[1:3])} ...` failed: {reason}")


def python_with_peers() -> tuple[Path | None, str]:
    """The interpreter that has the other libraries, made now if need be.

    Returns:
        (path, "") or (None, reason).
    """
    if _STAMP.exists() and _STAMP.read_text() == _wanted() and _python().exists():
        return _python(), ""
    uv = _uv()
    if uv is None:
        return None, "uv is not installed beside this interpreter; run `make setup`."
    print(f"bench: making bench/{ENVIRONMENT.name} (about 150 MB, once)", file=sys.stderr)
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    try:
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(ENVIRONMENT))
        _run(uv, "pip", "install", "--quiet", "--python", str(_python()), "--no-deps", "-r", str(PINS))
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(ENVIRONMENT), "platbase": str(ENVIRONMENT)}))
        (packages / _PATH_FILE).write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        _run(str(_python()), "-c", "import torch, transformers")
    except OSError as error:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        return None, str(error)
    _STAMP.write_text(_wanted())
    return _python(), ""
