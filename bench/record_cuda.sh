#!/usr/bin/env bash
# Records serving and the decoder on a machine with an NVIDIA GPU, about a quarter of an hour on an H200.
set -uo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
Usage: VISION_KERNELS=LIBRARY DECODER_OPERATORS=LIBRARY DECODER_KERNELS=LIBRARY bench/record_cuda.sh WORK

Makes in WORK, unless it is there, a build with random weights and the shapes of Qwen3-VL-30B-A3B (12 GB with all that
comes; on a disk that is in memory it loads soonest). Then measures an image's first token, load, whole beside split and
hand-off, and the decoder beside its peers. Results go to RESULTS. Each part has a time limit, and one that fails leaves
the others. Exit code: 0 if all went well.

Needed: the libraries of plugins/vision_kernels and plugins/decoder_kernels (libvision_kernels.so,
libdecoder_operators.so, libdecoder_kernels.so), and a Python (PYTHON, default: python3) with this project's extras
bench, cuda, export and check, but onnxruntime-gpu in the place of onnxruntime, torch for CUDA, and a tritonserver on
PATH or nvidia-pytriton.

  RESULTS  folder (default: bench/results)
  NAME     in the files' names (default: h200)
  PARTS    what to do (default: serving peers)
TEXT
}

case ${1:-} in
    '' | -h | --help)
        usage
        [ -n "${1:-}" ]
        exit
        ;;
esac
work=$1 python=${PYTHON:-python3} results=${RESULTS:-bench/results} name=${NAME:-h200} parts=${PARTS:-serving peers}
: "${VISION_KERNELS:?is not set; see bench/record_cuda.sh --help}"
: "${DECODER_OPERATORS:?is not set; see bench/record_cuda.sh --help}"
mkdir -p "$work" "$results"
failed=0

if [ ! -e "$work/build/engines/decoder/cuda.json" ]; then  # which is written last
    "$python" -u -m bench.gpu_serving.build "$work/build" --vision-kernels "$VISION_KERNELS" \
        --decoder-kernels "$DECODER_OPERATORS" || exit
fi
case $parts in *serving*)
    "$python" -u -m bench.gpu_serving.record "$work/build" --results "$results" --name "$name" || failed=1
    ;;
esac
case $parts in *peers*)
    "$python" -u -m bench.decoder_cuda.peers "$work/peers" --build "$work/build" --operators "$DECODER_OPERATORS" \
        ${DECODER_KERNELS:+--kernels "$DECODER_KERNELS"} --output "$results/decoder_peers_$name.json" || failed=1
    ;;
esac
exit $failed
