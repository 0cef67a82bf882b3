// How work is divided: every item goes to exactly one block, in order, and no block has two more than another.
#include "partition.h"

#include <cstdio>

int main() {
  for (int count = 0; count < 700; ++count) {
    for (int blocks = 1; blocks <= 132; ++blocks) {
      int next = 0;
      for (int index = 0; index < blocks; ++index) {
        const qwen3vl::Range part = qwen3vl::share_of(count, index, blocks);
        const int size = part.end - part.begin;
        if (part.begin != next || size < count / blocks || size > count / blocks + 1) {
          std::printf("block %d of %d has [%d, %d) of %d\n", index, blocks, part.begin, part.end, count);
          return 1;
        }
        next = part.end;
      }
      if (next != count) {
        std::printf("%d blocks share %d of %d\n", blocks, next, count);
        return 1;
      }
    }
  }
  const qwen3vl::Range last = qwen3vl::share_of(2147483647, 131, 132);
  if (last.end != 2147483647 || last.begin <= 0) return 1;
  if (qwen3vl::groups_of(0, 8) != 0 || qwen3vl::groups_of(8, 8) != 1 || qwen3vl::groups_of(9, 8) != 2) return 1;
  return 0;
}
