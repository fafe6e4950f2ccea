#!/bin/sh
# Print a Python 3.12 interpreter, or say how to get one. `make PYTHON=/path/to/python3.12 ...` overrides the search.
for candidate in "$PYTHON" python3.12 python3 python; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; then
        echo "$candidate"
        exit 0
    fi
done
cat >&2 <<'TXT'
setup: Python 3.12 was not found (tried $PYTHON, python3.12, python3, python). Get it by one of:
  pyenv install 3.12          then run make again here (.python-version selects it)
  uv python install 3.12      then: make PYTHON=$(uv python find 3.12) <word>
  your system's packages      e.g. apt install python3.12 python3.12-venv
TXT
exit 1
