// Layout and schedule of VisionAttention: every element has its place, every query tile is attended to once.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <vector>

#include "tiles.h"
#include "expect.h"

using namespace qwen3vl;

void places_are_distinct_and_fill_the_workspace(int head_size, int rows, int tile_rows) {
  const int chunks = score_chunks(head_size);
  const std::int64_t tiles = ceil_div(rows, tile_rows);
  std::set<std::int64_t> places;
  for (int frame_head = 0; frame_head < 3; ++frame_head)
    for (std::int64_t row = 0; row < tiles * tile_rows; ++row)
      for (int chunk = 0; chunk < chunks; ++chunk)
        places.insert(tile_offset(frame_head, row, tiles, tile_rows, chunks) + chunk * tile_rows * kChunk);
  EXPECT(static_cast<std::int64_t>(places.size()) == 3 * tiles * tile_rows * chunks);
  EXPECT(*places.begin() == 0 && *places.rbegin() == (3 * tiles * tile_rows * chunks - 1) * kChunk);
}

// And no thread block has more to do than if there were full items alone, the last one of a head partly empty.
void every_tile_is_attended_once(int frame_heads, int patches, int processors) {
  const Schedule schedule = make_schedule(frame_heads, patches, processors);
  const auto per_head = static_cast<int>(ceil_div(patches, kQueryRows));
  std::vector<int> seen(frame_heads * per_head);
  std::vector<int> load(processors);
  for (int index = 0; index < schedule.items(); ++index) {
    const Item item = item_at(schedule, index);
    EXPECT(item.split == (index >= schedule.full));
    const int tiles = item.split ? 1 : kGroups;
    EXPECT(item.query_tile + tiles <= per_head);
    for (int i = 0; i < tiles; ++i) ++seen.at(item.frame_head * per_head + item.query_tile + i);
    load[index % processors] += item.split ? 1 : kGroups;
  }
  EXPECT(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; }));
  const std::int64_t longest = *std::max_element(load.begin(), load.end());
  const std::int64_t without_splitting = kGroups * ceil_div(frame_heads * ceil_div(per_head, kGroups), processors);
  EXPECT(longest <= without_splitting);
}

int main() {
  EXPECT(score_chunks(64) == 8 && score_chunks(72) == 10 && value_chunks(72) == 9);
  for (int rows : {1, 63, 64, 65, 200}) {
    places_are_distinct_and_fill_the_workspace(72, rows, kQueryRows);
    places_are_distinct_and_fill_the_workspace(64, rows, kKeyRows);
  }
  std::srand(1);
  for (int frame_heads : {1, 2, 16, 128})
    for (int processors : {1, 7, 132})
      for (int patches : {1, 64, 65, 128, 129, 192, 193, 784, 3520, 8160, 65536})
        every_tile_is_attended_once(frame_heads, patches, processors);
  for (int i = 0; i < 300; ++i)
    every_tile_is_attended_once(1 + std::rand() % 40, 1 + std::rand() % 9000, 1 + std::rand() % 150);
  std::puts("tiles: ok");
}
