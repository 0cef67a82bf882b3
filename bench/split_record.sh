#!/usr/bin/env bash
# Records a whole server beside a split one on this machine, about 20 minutes on two cores with nothing else running:
#
#     bench/split_record.sh build/bench cpu
#     bench/split_record.sh build/bench cuda        on a machine with a GPU, which both processes share
#
# The model is bench.make_model's. Results go to bench/results/split_TARGET.json and .png.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:?a folder for the build} target=${2:?cpu or cuda}
qwen3vl=.venv/bin/qwen3vl

[ -e "$build-checkpoint/generation_config.json" ] || .venv/bin/python -m bench.make_model "$build-checkpoint"
$qwen3vl export "$build-checkpoint" -o "$build"
$qwen3vl build "$build" --target "$target"
for role in both encode language; do
    $qwen3vl compose "$build" --role "$role"
done
.venv/bin/python -m bench.split "$build" -o "bench/results/split_$target.json"
