#!/usr/bin/env bash
# Set up .venv and run the tests. Arguments go to pytest: ./test.sh tests/engines -k batcher
set -euo pipefail
cd "$(dirname "$0")"
scripts/setup_venv.sh test
pytest=(.venv/bin/python -m pytest)
if [ $# -gt 0 ]; then
    exec "${pytest[@]}" "$@"
fi
# Tests of servers that must notice something soon have the machine to themselves; all others run side by side.
alone=(tests/bench/serve tests/client tests/triton_repo)
status=0
"${pytest[@]}" --numprocesses auto --maxprocesses 4 --dist loadfile "${alone[@]/#/--ignore=}" || status=$?
"${pytest[@]}" "${alone[@]}" || status=$?
exit "$status"
