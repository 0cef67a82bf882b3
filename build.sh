#!/usr/bin/env bash
# From a checkpoint to a Triton model repository; optionally on to a running server or an answer.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'TEXT'
Usage: ./build.sh [CHECKPOINT] [options]

Sets up .venv, exports CHECKPOINT (default: models/tiny-shapes) to ONNX, builds engines, compares them with the
reference and composes the model repository build/<name>/triton_repo. What is already there is not made again.

  --name NAME        name of the folder in build/ (default: the checkpoint folder's name)
  --target TARGET    what the engines run on: cpu (default: cpu)
  --precision TYPE   fp32, or int4 or int8 for the decoder's weights (default: fp32; see docs/precision.md)
  --no-check         do not compare with the reference (needs neither torch nor transformers then)
  --serve            keep serving: HTTP on 127.0.0.1:8000, gRPC on :8001, metrics on :8002
  --demo             serve, ask a question about a sample picture, print the streamed answer, shut down
  --help             this text

PYTHON names the Python interpreter (3.11 or 3.12; default: python3).
TEXT
}

checkpoint=models/tiny-shapes name= target=cpu precision=fp32 check=1 then=
while [ $# -gt 0 ]; do
    case $1 in
        --name | --target | --precision)
            [ $# -gt 1 ] || { echo "error: $1 needs a value; see ./build.sh --help" >&2; exit 2; }
            declare "${1#--}=$2"
            shift 2
            ;;
        --no-check) check= && shift ;;
        --serve | --demo) then=${1#--} && shift ;;
        -h | --help) usage && exit ;;
        -*) echo "error: unknown option $1; see ./build.sh --help" >&2 && exit 2 ;;
        *) checkpoint=$1 && shift ;;
    esac
done
if [ ! -f "$checkpoint/config.json" ]; then
    echo "error: $checkpoint/config.json does not exist; give the folder of a Hugging Face checkpoint" >&2
    exit 2
fi
build=build/${name:-$(basename "$(realpath "$checkpoint")")}

if [ -n "$check" ]; then scripts/setup_venv.sh check; else scripts/setup_venv.sh cpu,export; fi
qwen3vl=.venv/bin/qwen3vl
"$qwen3vl" export "$checkpoint" -o "$build" --precision "$precision"
"$qwen3vl" build "$build" --target "$target"
if [ -n "$check" ]; then "$qwen3vl" check "$build"; fi
"$qwen3vl" compose "$build"
"$qwen3vl" repo check "$build/triton_repo"

case $then in
    serve) exec "$qwen3vl" serve "$build" ;;
    demo) exec "$qwen3vl" demo "$build" ;;
    *) echo "$build/triton_repo is ready: serve it with $qwen3vl serve $build" >&2 ;;
esac
