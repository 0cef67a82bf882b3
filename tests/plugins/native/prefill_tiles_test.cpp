// Prefill attention: every new token is attended to once for each head, sees the keys up to its own and no others, and
// nothing behind the sequence's end reaches a product.
#include "prefill_tiles.h"
#include "expect.h"

#include <vector>

using namespace qwen3vl;

void check(int tokens, int past, int kv_heads) {
  std::vector<int> seen(tokens * kv_heads);
  const int items = prefill_items(tokens, kv_heads), total = past + tokens;
  int longest = 1 << 30;
  for (int index = 0; index < items; ++index) {
    const PrefillItem item = prefill_item(index, tokens, kv_heads);
    EXPECT(item.first_token >= 0 && item.first_token < tokens && item.first_token % kTileTokens == 0);
    EXPECT(item.kv_head >= 0 && item.kv_head < kv_heads);
    const KeyTiles tiles = key_tiles(item.first_token, tokens, past);
    EXPECT(tiles.count >= 1 && tiles.count <= longest);  // long ones first
    longest = tiles.count;
    EXPECT(tiles.of_last >= 1 && tiles.of_last <= kKeyRows);
    // Of all but the last tile every key is the sequence's, of the last the first `of_last` and no others.
    EXPECT((tiles.count - 1) * kKeyRows + tiles.of_last <= total);
    EXPECT(tiles.of_last == kKeyRows || (tiles.count - 1) * kKeyRows + tiles.of_last == total);
    for (int row = 0; row < kTileTokens; ++row) {
      const int token = item.first_token + row;
      if (token < tokens) ++seen[token * kv_heads + item.kv_head];
      int keys = 0;
      for (int tile = 0; tile < tiles.count; ++tile) {
        const int visible = visible_keys(token, past, tile);
        if (tile < tiles.unmasked) EXPECT(visible >= kKeyRows);
        if (tile == 0) EXPECT(visible >= 1);  // so that the largest score is finite from the first tile on
        if (token >= tokens) continue;
        for (int column = 0; column < kKeyRows; ++column) {
          const bool counts = tile < tiles.unmasked || column < visible;
          const int key = tile * kKeyRows + column;
          EXPECT(counts == (key <= past + token));
          if (counts) EXPECT(tile < tiles.count - 1 || column < tiles.of_last);
          keys += counts;
        }
      }
      if (token < tokens) EXPECT(keys == past + token + 1);
    }
  }
  for (const int count : seen) EXPECT(count == 1);
}

int main() {
  for (const int tokens : {1, 2, 15, 16, 17, 64, 127, 128, 129, 300}) {
    for (const int past : {0, 1, 63, 111, 112, 126, 127, 128, 129, 1000}) {
      for (const int kv_heads : {1, 4}) check(tokens, past, kv_heads);
    }
  }
  return 0;
}
