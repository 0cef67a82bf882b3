#!/usr/bin/env bash
# Make .venv with this project and the given extras at the versions of constraints.txt; do nothing if it is up to date.
# Usage: scripts/setup_venv.sh EXTRA[,EXTRA...]       PYTHON names the interpreter (default: python3).
set -euo pipefail
cd "$(dirname "$0")/.."

extras=$1
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
    echo "error: $python is $("$python" --version 2>&1 || true), expected Python 3.11 or 3.12;" \
         "name another one: PYTHON=python3.12 $0" >&2
    exit 1
fi

wanted=$(cat pyproject.toml constraints.txt scripts/setup_venv.sh | sha256sum | cut -c1-16)
stamps=.venv/.installed
if [ "$(cat "$stamps/$extras" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
echo "setting up .venv with [$extras] ..." >&2
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --constraint constraints.txt setuptools
.venv/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[$extras]"
# Its own requirements (numpy below 2, for one) are those of a Python API that is not used here: only the server is.
.venv/bin/python -m pip install --quiet --constraint constraints.txt --no-deps nvidia-pytriton
# Its metadata ask for torch with CUDA, which moving rows between hosts does not need.
case ,$extras, in
    *,test,*) .venv/bin/python -m pip install --quiet --constraint constraints.txt --no-deps nixl-cu12 ;;
esac
mkdir -p "$stamps"
echo "$wanted" > "$stamps/$extras"
