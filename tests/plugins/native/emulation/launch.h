// plugins/decoder_kernels/csrc/launch.h has no meaning on a CPU: kernels are called by `emulation::launch`.
#pragma once

namespace qwen3vl {

inline int multiprocessor_count() { return 1; }

}  // namespace qwen3vl
