// Draws one token from logits. All filters keep a prefix of the candidates in order of descending logit
// (ascending id among equals), so only as much of that order is made as is needed: a heap, popped.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../core/ops.h"
#include "../cpu/pool.h"

namespace mi::cpu {
namespace {

struct Candidate {
  float logit, weight;
  int32_t id;
};

// Heap order: the last in line first.
bool after(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit < b.logit : a.id > b.id;
}

// Uniform in [0, 1): output number `step` of SplitMix64 (Steele, Lea, Flood, 2014) seeded with `seed`.
double uniform(uint64_t seed, uint64_t step) {
  uint64_t z = seed + (step + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return double(z >> 11) * 0x1p-53;
}

// Every token of the history, however often it occurs, becomes less likely (arXiv 1909.05858, section 4.1).
void penalise(std::vector<float>& logits, const SampleArgs& a) {
  if (a.repetition_penalty == 1) return;
  std::vector<bool> seen(logits.size());
  for (int32_t i = 0; i < a.history_length; i++) {
    const int32_t id = a.history[i];
    if (id < 0 || id >= a.vocab || seen[id]) continue;
    seen[id] = true;
    logits[id] = logits[id] > 0 ? logits[id] / a.repetition_penalty : logits[id] * a.repetition_penalty;
  }
}

// NaN is no candidate.
std::vector<Candidate> candidates(const std::vector<float>& logits) {
  std::vector<Candidate> all;
  all.reserve(logits.size());
  for (size_t id = 0; id < logits.size(); id++)
    if (!std::isnan(logits[id])) all.push_back({logits[id], 0, int32_t(id)});
  return all;
}

int32_t draw(std::vector<Candidate>& all, const SampleArgs& a) {
  const auto first = [](const Candidate& x, const Candidate& y) { return after(y, x); };
  if (a.top_k > 0 && size_t(a.top_k) < all.size()) {
    std::nth_element(all.begin(), all.begin() + a.top_k, all.end(), first);
    all.resize(size_t(a.top_k));
  }
  float top = all[0].logit;
  for (const Candidate& c : all) top = std::max(top, c.logit);
  double total = 0;
  for (Candidate& c : all) {  // relative to the best; infinities leave it alone or tie with it
    c.weight = c.logit == top ? 1.0f : std::exp((c.logit - top) / a.temperature);
    total += c.weight;
  }
  const double nucleus = a.top_p * total;
  const auto too_small = [&](const Candidate& c) { return c.weight < a.min_p; };
  all.erase(std::remove_if(all.begin(), all.end(), too_small), all.end());

  std::make_heap(all.begin(), all.end(), after);
  std::vector<Candidate> order;  // descending
  double sum = 0;                // of its weights
  const auto next = [&] {
    std::pop_heap(all.begin(), all.end(), after);
    order.push_back(all.back());
    all.pop_back();
    sum += order.back().weight;
  };
  double kept = 0;
  if (a.top_p < 1) {
    do next();
    while (sum < nucleus && !all.empty());
    kept = sum;
    all.clear();
  } else {
    for (const Candidate& c : all) kept += c.weight;
  }

  const double target = uniform(a.seed, a.step) * kept;
  double passed = 0;
  for (size_t i = 0;; i++) {
    if (i == order.size()) {
      if (all.empty()) return order.back().id;
      next();
    }
    passed += order[i].weight;
    if (passed > target) return order[i].id;
  }
}

}  // namespace

void sample(Pool&, const SampleArgs& a) {
  std::vector<float> logits(a.logits, a.logits + a.vocab);
  penalise(logits, a);
  std::vector<Candidate> all = candidates(logits);
  if (all.empty()) {
    *a.out = 0;
  } else if (a.temperature == 0) {
    *a.out = std::max_element(all.begin(), all.end(), after)->id;
  } else {
    *a.out = draw(all, a);
  }
}

}  // namespace mi::cpu
