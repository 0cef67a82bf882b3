// A chunk's experts: every pair meets every weight row once, tiles that share weights are neighbours, the workspace holds
// what it is for, and the exchange of words leaves each lane with eight neighbouring rows.
#include "expert_tiles.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include "word_exchange.h"
#include "expect.h"

using namespace qwen3vl;

using Counts = std::vector<int>;  // pairs of each expert

PairGroups groups_with(const Counts& counts) {
  PairGroups groups{};
  int pairs = 0, count = 0;
  for (int expert = 0; expert < kChunkExperts; ++expert) {
    groups.pair_ends[expert] = pairs += counts[expert];
    groups.group_ends[expert] = count += (counts[expert] + kGroupPairs - 1) / kGroupPairs;
  }
  return groups;
}

void every_pair_meets_every_row_once(const Counts& counts) {
  const PairGroups groups = groups_with(counts);
  int pairs = 0;
  for (int expert = 0; expert < kChunkExperts; ++expert) {
    EXPECT(expert_groups(counts[expert]) ==
           groups.group_ends[expert] - (expert == 0 ? 0 : groups.group_ends[expert - 1]));
    pairs += counts[expert];
  }
  std::vector<int> owner;
  for (int expert = 0; expert < kChunkExperts; ++expert) owner.insert(owner.end(), counts[expert], expert);
  std::vector<int> seen(static_cast<std::size_t>(pairs) * (kUpTilesOfGroup + kDownTilesOfGroup));
  std::map<int, ExpertTile> of_group;
  std::map<std::vector<int>, int> last_with_weights;
  int ups = 0;
  for (int index = 0; index < groups.tiles(); ++index) {
    const ExpertTile tile = tile_at(groups, index);
    EXPECT(tile.down == (index >= groups.group_ends[kChunkExperts - 1] * kUpTilesOfGroup));
    ups += tile.down == 0;
    EXPECT(tile.pairs > 0 && tile.pairs <= kGroupPairs);
    EXPECT(tile.rows >= 0 && tile.rows < (tile.down != 0 ? kDownTilesOfGroup : kUpTilesOfGroup));
    for (int pair = tile.first_pair; pair < tile.first_pair + tile.pairs; ++pair) {
      EXPECT(owner.at(pair) == tile.expert);
      ++seen.at(static_cast<std::size_t>(pair) * (kUpTilesOfGroup + kDownTilesOfGroup) +
                (tile.down != 0 ? kUpTilesOfGroup : 0) + tile.rows);
    }
    const auto [known, is_new] = of_group.emplace(tile.group, tile);
    EXPECT(is_new || (known->second.first_pair == tile.first_pair && known->second.pairs == tile.pairs));
    const std::vector<int> weights{tile.expert, tile.down, tile.rows};
    const auto last = last_with_weights.find(weights);
    EXPECT(last == last_with_weights.end() || last->second == index - 1);
    last_with_weights[weights] = index;
  }
  EXPECT(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }));
  const int count = groups.group_ends[kChunkExperts - 1];
  EXPECT(static_cast<int>(of_group.size()) == count && ups == count * kUpTilesOfGroup);
  if (count > 0) EXPECT(of_group.begin()->first == 0 && of_group.rbegin()->first == count - 1);
  EXPECT(ChunkWorkspace(pairs, 1).counter_count >= 1 + count);
}

// Multiplied columns are at most a block more than there are pairs: an expert's groups share whole blocks.
void groups_waste_less_than_a_block(int pairs) {
  Counts counts(kChunkExperts);
  counts[5] = pairs;
  const PairGroups groups = groups_with(counts);
  int columns = 0;
  for (int index = 0; index < expert_groups(pairs); ++index)
    columns += groups_of(tile_at(groups, index).pairs, kPairBlock) * kPairBlock;
  EXPECT(columns >= pairs && columns < pairs + kPairBlock);
}

void workspace_holds_its_arrays(std::int64_t tokens, std::int64_t k) {
  const ChunkWorkspace places(tokens, k);
  const auto pairs = static_cast<std::size_t>(tokens * k);
  EXPECT(places.counters == 0 && places.counts >= static_cast<std::size_t>(places.counter_count) * 4);
  EXPECT(places.grouped >= places.counts + kChunkExperts * 4);
  EXPECT(places.activations >= places.grouped + pairs * 4);
  EXPECT(places.size >= places.activations + pairs * kChunkInner * 2);
  for (const std::size_t place : {places.counts, places.grouped, places.activations}) EXPECT(place % 16 == 0);
}

// What the tensor cores leave: lane l has values (row l / 4, columns 2 (l % 4) and the next) of an 8 x 8 matrix, and what
// the transposition makes of it: column l / 4, rows 2 (l % 4) and the next. A word names its two places.
struct Place {
  int matrix, row, column;
};

using Words = std::uint32_t[32][4];

std::uint32_t word_of(int matrix, int lane) { return static_cast<std::uint32_t>(matrix * 100 + lane); }

std::vector<Place> places_of(std::uint32_t word) {
  const int matrix = static_cast<int>(word) / 100, lane = static_cast<int>(word) % 100;
  return {{matrix, 2 * (lane % 4), lane / 4}, {matrix, 2 * (lane % 4) + 1, lane / 4}};
}

void lanes_get_eight_rows_of_one_column() {
  Words words;
  for (int lane = 0; lane < 32; ++lane)
    for (int matrix = 0; matrix < 4; ++matrix) words[lane][matrix] = word_of(matrix, lane);
  for (int round = 0; round < kExchangeRounds; ++round) {
    for (int exchange = 0; exchange < 2; ++exchange) {
      std::uint32_t sent[32];
      for (int lane = 0; lane < 32; ++lane) sent[lane] = word_to_send(words[lane], lane, round, exchange);
      for (int lane = 0; lane < 32; ++lane)
        accept_word(words[lane], lane, round, exchange, sent[lane ^ 1 << round]);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    int row = first_row(lane);
    for (const std::uint32_t word : words[lane]) {
      for (const Place& place : places_of(word)) {
        // matrix 2 i + r: rows 8 r on, of columns 8 i on, or of matrix i
        EXPECT(place.matrix % 2 * 8 + place.row == row);
        EXPECT(place.matrix / 2 * 8 + place.column == column_of_sixteen(lane));
        EXPECT(place.matrix / 2 == matrix_of_two(lane) && place.column == column_of_eight(lane));
        ++row;
      }
    }
    EXPECT(row == first_row(lane) + 8);
  }
}

int main() {
  std::srand(1);
  Counts counts(kChunkExperts);
  every_pair_meets_every_row_once(counts);
  for (const int pairs : {1, 31, 32, 33, 160, 161, 320, 321, 2048}) {
    for (const int expert : {0, 1, 64, 127}) {
      Counts one(kChunkExperts);
      one[expert] = pairs;
      every_pair_meets_every_row_once(one);
    }
    groups_waste_less_than_a_block(pairs);
  }
  for (const int most : {2, 40, 300, 3000}) {
    for (int round = 0; round < 4; ++round) {
      for (int& count : counts) count = std::rand() % 3 == 0 ? 0 : std::rand() % most;
      every_pair_meets_every_row_once(counts);
    }
  }
  workspace_holds_its_arrays(1, 8);
  workspace_holds_its_arrays(2048, 8);
  workspace_holds_its_arrays(8191, 7);
  lanes_get_eight_rows_of_one_column();
  return 0;
}
