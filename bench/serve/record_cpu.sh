#!/usr/bin/env bash
# Records a server under load on a CPU, about 25 minutes on two cores with nothing else running:
#
#     bench/serve/record_cpu.sh build/bench
#
# The model is bench.make_model's. Results go to bench/results/: loads up to saturation with the default stall time, and
# a few of them with one of half a second.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:?a folder for the build}
qwen3vl=.venv/bin/qwen3vl
requests=(--requests 60 --text-tokens 64 512 --images 0 2 --image-size 224x224 --answer-tokens 16 64)

[ -e "$build-checkpoint/generation_config.json" ] || .venv/bin/python -m bench.make_model "$build-checkpoint"
$qwen3vl export "$build-checkpoint" -o "$build"
$qwen3vl build "$build"
$qwen3vl compose "$build" --stall-ms 50
$qwen3vl bench serve "$build" --rate 0.2 0.4 0.6 0.8 1 1.2 "${requests[@]}" -o bench/results/serve_cpu.json
$qwen3vl compose "$build" --stall-ms 500
$qwen3vl bench serve "$build" --rate 0.4 0.8 1.2 "${requests[@]}" -o bench/results/serve_cpu_stall_500.json
