// Prints the f32 multiply-add rate of this machine in GFLOP/s, the ceiling of the linear layers, and the
// fraction of the threads' time that the system gave them.
//
//   g++ -O3 -march=native -pthread fma_peak.cpp -o fma_peak && ./fma_peak THREADS MILLISECONDS
//
// Registers only: enough independent chains that latency does not bound the loop.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#else
constexpr int kBytes = 32;
#endif
typedef float Vector __attribute__((vector_size(kBytes)));
constexpr int kLanes = kBytes / sizeof(float);
constexpr int kChains = 12;          // latency 4-5 cycles x 2 pipes, and still within 16 registers
constexpr int kSteps = 1 << 16;      // per reading of the clock

static volatile float sink;

struct Rate {
  double gflops;
  double share;  // processor time over wall time
};

static double processor_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// One thread until the deadline.
static Rate run(std::chrono::steady_clock::time_point deadline) {
  using clock = std::chrono::steady_clock;
  volatile float factor = 0.999f, term = 0.001f;  // opaque to the optimiser
  const Vector a = Vector{} + factor;
  const Vector b = Vector{} + term;
  Vector acc[kChains];
  for (int c = 0; c < kChains; ++c) acc[c] = Vector{} + static_cast<float>(c);
  long steps = 0;
  const double processor_start = processor_seconds();
  const auto start = clock::now();
  auto now = start;
  for (; now < deadline; now = clock::now(), steps += kSteps) {
    for (int s = 0; s < kSteps; ++s) {
#pragma GCC unroll 16
      for (int c = 0; c < kChains; ++c) acc[c] = acc[c] * a + b;
    }
  }
  Vector sum{};
  for (int c = 0; c < kChains; ++c) sum += acc[c];
  sink = sum[0];
  const double seconds = std::chrono::duration<double>(now - start).count();
  const double gflops = 2.0 * kLanes * kChains * static_cast<double>(steps) / seconds * 1e-9;
  return {gflops, (processor_seconds() - processor_start) / seconds};
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const int milliseconds = argc > 2 ? std::atoi(argv[2]) : 500;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  std::vector<Rate> rates(threads);
  std::vector<std::thread> workers;
  for (int t = 1; t < threads; ++t) workers.emplace_back([&, t] { rates[t] = run(deadline); });
  rates[0] = run(deadline);
  for (auto& worker : workers) worker.join();
  Rate total{};
  for (const Rate& rate : rates) {
    total.gflops += rate.gflops;
    total.share += rate.share / threads;
  }
  std::printf("%.1f %.3f\n", total.gflops, total.share);
}
