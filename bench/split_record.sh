#!/usr/bin/env bash
# Records a whole server beside a split one on this machine, about 20 minutes on two cores with nothing else running:
#
#     bench/split_record.sh build/bench cpu
#     bench/split_record.sh build/bench cuda        on a machine with a GPU, which both processes share
#
# The model is bench.make_model's; for one of real size on a GPU see bench/record_cuda.sh. PYTHON names the interpreter
# (default: .venv's). Results go to bench/results/split_TARGET.json and .png.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:?a folder for the build} target=${2:?cpu or cuda}
python=${PYTHON:-.venv/bin/python}
qwen3vl="$python -m client.cli"
# ONNX Runtime has attention for a GPU in half precisions alone.
case $target in cuda) precision=fp16 ;; *) precision=fp32 ;; esac

[ -e "$build-checkpoint/generation_config.json" ] || $python -m bench.make_model "$build-checkpoint"
$qwen3vl export "$build-checkpoint" -o "$build" --precision "$precision"
$qwen3vl build "$build" --target "$target"
for role in both encode language; do
    $qwen3vl compose "$build" --role "$role"
done
$python -m bench.split "$build" -o "bench/results/split_$target.json"
