#!/usr/bin/env bash
# Verify the target trtllm on a machine with an NVIDIA GPU, inside NVIDIA's container, and write one report.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
Usage: scripts/verify_gpu.sh [options] [CHECKPOINT...]

Run it in the container:

  docker run --gpus all --ipc host --rm -it -v "$PWD:/work" -w /work \
      nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3 scripts/verify_gpu.sh

It installs what is missing, builds the plugin and engines for each CHECKPOINT (default: models/tiny-shapes, and a random
model of half a billion parameters), compares them with transformers level by level and token by token, with and without
the plugin, asks and load-tests them through Triton, and writes build/verify-TARGET/report.md and report.json. Steps that
passed are not run again. Exit code: 0 if everything passed.

  --target TARGET    trtllm (default), or cpu: a rehearsal of the same steps and report without a GPU
  --output FOLDER    where builds, logs and the report go (default: build/verify-TARGET)
  --tp N, --pp N, --ep N   division among GPUs (default: 1)
  --max-length N     longest sequence of the engines (default: 4096)
  --no-plugin        leave the DeepstackAdd plugin out
  --force            run every step again
  --python PYTHON    the Python to use for everything; nothing is installed then
  --help             this text
TEXT
}

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "error: $*"
    exit 2
}

target=trtllm output='' python=''
options=() checkpoints=()
while [ $# -gt 0 ]; do
    case $1 in
        --target | --output | --python)
            [ $# -gt 1 ] || fail "$1 needs a value; see scripts/verify_gpu.sh --help"
            declare "${1#--}=$2"
            shift 2
            ;;
        --tp | --pp | --ep | --max-length)
            [ $# -gt 1 ] || fail "$1 needs a value; see scripts/verify_gpu.sh --help"
            options+=("$1" "$2")
            shift 2
            ;;
        --no-plugin | --force)
            options+=("$1")
            shift
            ;;
        -h | --help)
            usage
            exit
            ;;
        -*) fail "unknown option $1; see scripts/verify_gpu.sh --help" ;;
        *)
            checkpoints+=("$1")
            shift
            ;;
    esac
done
case $target in
    trtllm | cpu) ;;
    *) fail "--target is $target, expected trtllm or cpu" ;;
esac
output=${output:-build/verify-$target}

reference=$python
if [ -z "$python" ]; then
    # The reference needs a version of transformers that TensorRT-LLM does not allow beside itself.
    scripts/setup_venv.sh check,bench
    reference=.venv/bin/python
    python=$reference
fi
if [ "$target" = trtllm ] && [ "$reference" = .venv/bin/python ]; then
    python=${PYTHON:-python3}
    "$python" -c 'import tensorrt_llm' 2>/dev/null ||
        fail "$python has no tensorrt_llm: run this in the container (scripts/verify_gpu.sh --help), or name another" \
            "Python by PYTHON"
    say "installing the project beside TensorRT-LLM ..."
    # What is there stays as it is: its versions are the container's.
    "$python" -m pip install --quiet --editable '.[bench,export]'
    command -v cmake >/dev/null || "$python" -m pip install --quiet cmake
fi

if [ ${#checkpoints[@]} -eq 0 ]; then
    checkpoints=(models/tiny-shapes)
    if [ "$target" = trtllm ]; then
        random=$output/random-model
        if [ ! -f "$random/generation_config.json" ]; then
            say "writing a random model to $random ..."
            "$reference" -m bench.make_model "$random"
        fi
        checkpoints+=("$random")
    fi
fi
for root in "${TENSORRT_ROOT:-}" /usr/local/tensorrt /opt/tensorrt /usr; do
    if [ -n "$root" ] && [ -n "$(find -L "$root/include" -maxdepth 2 -name NvInferRuntime.h 2>/dev/null)" ]; then
        options+=(--tensorrt-root "$root")
        break
    fi
done

exec "$python" -m client.cli verify "${checkpoints[@]}" --target "$target" --output "$output" \
    --reference-python "$reference" "${options[@]}"
