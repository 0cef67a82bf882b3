// The next token of a sequence, chosen among the most likely ones by one thread block.
#pragma once

#include <cstdint>

namespace qwen3vl {

constexpr int kMostCandidates = 64;

// How a token is chosen; 4 numbers in memory.
struct Draw {
  double temperature;
  double top_k;  // a whole number; 0, or more than there are: all candidates
  double top_p;
  double uniform;  // in [0, 1)
};
static_assert(sizeof(Draw) == 4 * sizeof(double));

struct Candidates {
  float logits[kMostCandidates];  // the most likely first
  std::uint32_t ids[kMostCandidates];
  double shares[kMostCandidates];  // probabilities, but for a common factor
  double shares_by_id[kMostCandidates];  // of those kept, in the order of their ids
  int kept;
};

// Of `count` candidates, 1 or more: the first top_k; of these the first whose shares add up to top_p of all of theirs;
// of these, in the order of their ids, the first at which the sum of shares is above `uniform` of the whole, or the
// last.
//
// The temperature is not 0. The block has a thread for each candidate at least, and all of its threads call this, after
// logits and ids are visible to them. Each thread takes the same sums in the same order, and exactly one writes,
// whatever the numbers are: comparisons with sums that are NaN are false, which keeps all candidates and takes the last.
__device__ __forceinline__ void choose_token(Candidates& shared, const Draw& draw, int count, std::int64_t* chosen) {
  const int own = threadIdx.x;
  if (draw.top_k >= 1 && draw.top_k < count) count = static_cast<int>(draw.top_k);
  double share = 0;
  if (own < count) {
    share = exp(shared.logits[own] / draw.temperature - shared.logits[0] / draw.temperature);
    shared.shares[own] = share;
  }
  __syncthreads();
  if (draw.top_p < 1) {
    double total = 0, before = 0;  // before: of those more likely than the own candidate
    for (int i = 0; i < count; ++i) {
      if (i == own) before = total;
      total += shared.shares[i];
    }
    const double target = draw.top_p * total;
    const bool kept = own < count && (own == 0 || !(before >= target));
    if (kept && (own == count - 1 || before + share >= target)) shared.kept = own + 1;
    __syncthreads();
    count = shared.kept;
  }
  const bool kept = own < count;
  int place = 0;
  if (kept) {
    for (int i = 0; i < count; ++i) place += shared.ids[i] < shared.ids[own];
    shared.shares_by_id[place] = share;
  }
  __syncthreads();
  double total = 0, before = 0;  // before: of kept ones with smaller ids
  for (int i = 0; i < count; ++i) {
    if (i == place) before = total;
    total += shared.shares_by_id[i];
  }
  const double threshold = draw.uniform * total;
  const bool none_before = place == 0 || !(before > threshold);
  if (kept && none_before && (before + share > threshold || place == count - 1)) *chosen = shared.ids[own];
}

}  // namespace qwen3vl
