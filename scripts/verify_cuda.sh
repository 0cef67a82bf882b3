#!/usr/bin/env bash
# Verify the decoder of the target cuda on a machine with an NVIDIA GPU, from its kernels' source to a streamed answer.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
Usage: ONNXRUNTIME_ROOT=FOLDER scripts/verify_cuda.sh [options of bench.decoder_cuda.serve_check]

Builds the operator library of plugins/decoder_kernels, then builds, checks and serves a random model with the shapes of
Qwen3-VL-30B-A3B and four layers: see python -m bench.decoder_cuda.serve_check --help. Takes 20 GB of disk. Exit
code: 0 if everything passed.

Needed: CMake, nvcc, ONNX Runtime's C headers in $ONNXRUNTIME_ROOT/include, and a Python (PYTHON, default: python3) with
this project's extras cuda, export and check at the versions of constraints.txt, but onnxruntime-gpu in the place of
onnxruntime, torch for CUDA, and a tritonserver on PATH or nvidia-pytriton.

  WORK     folder for libraries, checkpoint and build (default: build/verify-cuda); it is emptied first
TEXT
}

case ${1:-} in
    -h | --help)
        usage
        exit
        ;;
esac
if [ -z "${ONNXRUNTIME_ROOT:-}" ]; then
    echo "error: ONNXRUNTIME_ROOT is not set; see scripts/verify_cuda.sh --help" >&2
    exit 2
fi
python=${PYTHON:-python3} work=${WORK:-build/verify-cuda}
"$python" -c 'import onnxruntime, sys; sys.exit("CUDAExecutionProvider" not in onnxruntime.get_available_providers())' ||
    { echo "error: the ONNX Runtime of $python is not one for GPUs: install onnxruntime-gpu" >&2; exit 2; }

rm -rf "$work"
mkdir -p "$work"
cmake -S plugins/decoder_kernels -B "$work/kernels" -DONNXRUNTIME_ROOT="$ONNXRUNTIME_ROOT"
cmake --build "$work/kernels" --parallel --target decoder_operators
exec "$python" -m bench.decoder_cuda.serve_check "$work" --decoder-kernels "$work/kernels/libdecoder_operators.so" \
    --output "$work/report.json" "$@"
