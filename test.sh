#!/usr/bin/env bash
# Set up .venv and run the tests. Arguments go to pytest: ./test.sh tests/engines -k batcher
set -euo pipefail
cd "$(dirname "$0")"
scripts/setup_venv.sh test
exec .venv/bin/python -m pytest "$@"
