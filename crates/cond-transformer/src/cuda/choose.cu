// One code from the logits of each sequence, by the rules of `sampling/`: guidance,
// temperature, top-k, top-p, and the inverse of the summed probabilities in the order of
// codes. Sums are in f64 or in one order, so that a code depends on nothing but its row.
#include "common.cuh"

constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / 32;

// As `draw.rs` has it.
struct Options {
    double scale;      // of guidance; 0: there are no rows without the condition
    float temperature;
    float top_p;       // 1: all
    int top_k;         // 0: all
    int greedy;
    int guided_until;  // position of the last code that is guided
    int length;        // of a sequence of codes
    int vocabulary;
    int sequences;
    int width;         // of an embedding
};

// The order of numbers, minus infinity first; no NaN.
__device__ __forceinline__ uint32_t order(float x) {
    const uint32_t bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

constexpr uint32_t NOTHING = 0x007fffffu; // the order of minus infinity

// The largest in `from..=to` that `holds`, which holds for `from` and up to some place.
template <typename F> __device__ __forceinline__ uint32_t last_that(uint32_t from, uint32_t to, F holds) {
    while (from < to) {
        const uint32_t middle = to - (to - from) / 2;
        if (holds(middle)) from = middle;
        else to = middle - 1;
    }
    return from;
}

// A sequence's logits, and later on probabilities, of which a thread has every `THREADS`th:
// in registers where they fit, since whoever searches looks at them some thirty times.
template <int EACH> struct Held {
    int vocabulary;
    float logits[EACH], shares[EACH];

    __device__ __forceinline__ Held(int vocabulary, float *, float *) : vocabulary(vocabulary) {}

    // `visit(code, logit, share)`.
    template <typename F> __device__ __forceinline__ void each(F visit) {
#pragma unroll
        for (int n = 0; n < EACH; ++n) {
            const int code = n * THREADS + threadIdx.x;
            if (code < vocabulary) visit(code, logits[n], shares[n]);
        }
    }
};

template <> struct Held<0> {
    int vocabulary;
    float *logits, *shares;

    __device__ __forceinline__ Held(int vocabulary, float *logits, float *shares)
        : vocabulary(vocabulary), logits(logits), shares(shares) {}

    template <typename F> __device__ __forceinline__ void each(F visit) {
        for (int code = threadIdx.x; code < vocabulary; code += THREADS)
            visit(code, logits[code], shares[code]);
    }
};

// Sums of what threads before this one have; `total` is that of all.
template <typename V>
__device__ __forceinline__ V sum_before(V own, V *scratch, V *total) {
    static_assert(WARPS == 32, "a lane for each warp");
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    V sum = own;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const V other = __shfl_up_sync(~0u, sum, distance);
        if (lane >= distance) sum += other;
    }
    __syncthreads();
    if (lane == 31) scratch[warp] = sum;
    __syncthreads();
    V of_warps = scratch[lane];
#pragma unroll
    for (int distance = 1; distance < WARPS; distance *= 2) {
        const V other = __shfl_up_sync(~0u, of_warps, distance);
        if (lane >= distance) of_warps += other;
    }
    *total = __shfl_sync(~0u, of_warps, WARPS - 1);
    const V before = __shfl_sync(~0u, of_warps, max(warp - 1, 0));
    return (warp == 0 ? 0 : before) + sum - own;
}

// A block for each sequence. `logits` `[sequences or twice as many, V]` are left filtered;
// `probabilities` `[sequences, V]` is scratch. `forced` and `uniforms` are
// `[sequences, length]`: codes that are given, or -1, and numbers in [0, 1). What fails is
// noted in `failed`: 1 + 2 * position, and 1 more where nothing is left.
template <typename T, int EACH>
__device__ __forceinline__ void choose(
    Options o, float *logits, float *probabilities, const uint8_t *forbidden,
    const int *forced, const double *uniforms, int *position, int *step, uint32_t *ended,
    uint32_t *codes, uint32_t *failed, const T *table, const T *places, float *x
) {
    __shared__ double doubles[WARPS];
    __shared__ float floats[WARPS];
    __shared__ uint32_t counts[WARPS];
    __shared__ uint32_t chosen;
    after_others();
    const int sequence = blockIdx.x, vocabulary = o.vocabulary, at = *step;
    const int next = *position + 1;
    float *row = logits + (int64_t)sequence * vocabulary;
    Held<EACH> held(vocabulary, row, probabilities + (int64_t)sequence * vocabulary);
    const float *without = row + (int64_t)o.sequences * vocabulary;
    const int given = forced[sequence * o.length + at];

    uint32_t code = 0, error = 0;
    if (given < 0) {
        uint32_t wrong = 0;
        float largest = -INFINITY;
        const bool guided = o.scale > 0.0 && at <= o.guided_until;
        const float scale = (float)o.scale;
        held.each([&](int i, float &kept, float &) {
            float logit = row[i];
            if (guided) logit = without[i] + (logit - without[i]) * scale;
            wrong |= isnan(logit) || logit == INFINITY;
            if (forbidden != nullptr && forbidden[i]) logit = -INFINITY;
            largest = fmaxf(largest, logit);
            kept = logit;
        });
        wrong = block_total(wrong, Larger(), counts);
        largest = block_total(largest, Larger(), floats);
        if (wrong) error = 1;
        else if (largest == -INFINITY) error = 2;
    }
    if (given >= 0) {
        code = given;
    } else if (error == 0 && o.greedy) {
        // The first of the largest: those behind it are smaller in this order.
        uint32_t first = 0;
        float largest = -INFINITY;
        held.each([&](int, float &logit, float &) { largest = fmaxf(largest, logit); });
        largest = block_total(largest, Larger(), floats);
        held.each([&](int i, float &logit, float &) {
            if (logit == largest && first == 0) first = ~(uint32_t)i;
        });
        code = ~block_total(first, Larger(), counts);
    } else if (error == 0) {
        float largest = -INFINITY;
        held.each([&](int, float &logit, float &) {
            if (o.temperature != 1.0f) logit /= o.temperature;
            largest = fmaxf(largest, logit);
        });
        largest = block_total(largest, Larger(), floats);
        const uint32_t highest = order(largest);
        // Kept is what is of this order or a higher one.
        uint32_t lowest = NOTHING;
        if (o.top_k > 0 && o.top_k < vocabulary)
            lowest = last_that(NOTHING, highest, [&](uint32_t least) {
                uint32_t count = 0;
                held.each([&](int, float &logit, float &) { count += order(logit) >= least; });
                return block_total(count, Add(), counts) >= (uint32_t)o.top_k;
            });
        // And of those of the lowest order only so many, the first ones.
        uint32_t of_lowest = ~0u;
        if (o.top_p < 1.0f) {
            double sum = 0.0;
            held.each([&](int, float &logit, float &share) {
                const bool kept = order(logit) >= lowest && logit > -INFINITY;
                share = kept ? expf(logit - largest) : 0.0f;
                sum += share;
            });
            const float total = (float)block_total(sum, Add(), doubles);
            held.each([&](int, float &, float &share) { share /= total; });
            // What those have that are at least so large.
            auto mass = [&](uint32_t least) {
                double sum = 0.0;
                held.each([&](int, float &logit, float &share) {
                    if (order(logit) >= least) sum += share;
                });
                return block_total(sum, Add(), doubles);
            };
            if ((float)mass(lowest) > o.top_p) {
                lowest = last_that(lowest, highest,
                                   [&](uint32_t least) { return (float)mass(least) > o.top_p; });
                const double above = mass(lowest + 1);
                uint32_t equal = 0;
                float share = 0.0f;
                held.each([&](int, float &logit, float &of_code) {
                    if (order(logit) == lowest) {
                        ++equal;
                        share = of_code;
                    }
                });
                equal = block_total(equal, Add(), counts);
                share = block_total(share, Larger(), floats);
                // The fewest that bring it above.
                of_lowest = equal - last_that(0, equal - 1, [&](uint32_t fewer) {
                    return (float)(above + (double)share * (equal - fewer)) > o.top_p;
                });
            }
        }
        // Each thread has neighbouring codes now.
        held.each([&](int i, float &logit, float &) { row[i] = logit; });
        __syncthreads();
        const int each = (vocabulary + THREADS - 1) / THREADS;
        const int from = min((int)threadIdx.x * each, vocabulary);
        const int to = min(from + each, vocabulary);
        uint32_t equal = 0, all_equal;
        for (int i = from; i < to; ++i) equal += order(row[i]) == lowest;
        uint32_t rank = sum_before(equal, counts, &all_equal);
        double sum = 0.0;
        uint32_t last = 0;
        for (int i = from; i < to; ++i) {
            const uint32_t own = order(row[i]);
            const bool kept = own > lowest || (own == lowest && rank < of_lowest);
            rank += own == lowest;
            if (!kept) row[i] = -INFINITY;
            if (row[i] == -INFINITY) continue;
            const double weight = exp((double)(row[i] - largest));
            if (weight > 0.0) last = i;
            sum += weight;
        }
        double total;
        const double before = sum_before(sum, doubles, &total);
        // Rounding may leave a crumb behind the last possible code.
        if (threadIdx.x == 0) chosen = 0;
        last = block_total(last, Larger(), counts);
        double left = uniforms[sequence * o.length + at] * total - before;
        // The first thread whose sum goes beyond it.
        uint32_t mine = left < sum && sum > 0.0 ? THREADS - threadIdx.x : 0;
        mine = block_total(mine, Larger(), counts);
        if (mine == THREADS - threadIdx.x) {
            uint32_t found = last;
            for (int i = from; i < to; ++i) {
                if (row[i] == -INFINITY) continue;
                const double weight = exp((double)(row[i] - largest));
                if (weight > 0.0) {
                    found = i;
                    if (left < weight) break;
                    left -= weight;
                }
            }
            chosen = found;
        }
        if (mine == 0 && threadIdx.x == 0) chosen = last;
        __syncthreads();
        code = chosen;
    }
    if (error != 0 && threadIdx.x == 0 && failed[sequence] == 0)
        failed[sequence] = 2 * at + error;
    if (threadIdx.x == 0) codes[sequence * o.length + at] = code;
    // The next position's input, where the model has learned positions with these.
    for (int i = threadIdx.x; i < o.width; i += THREADS) {
        float value = to_float(table[(int64_t)code * o.width + i]);
        if (places != nullptr && at + 1 < o.length)
            value += to_float(places[(int64_t)next * o.width + i]);
        x[(int64_t)sequence * o.width + i] = value;
        if (o.scale > 0.0) x[(int64_t)(sequence + o.sequences) * o.width + i] = value;
    }
    // The last block moves on: all have read where they are.
    __syncthreads();
    if (threadIdx.x == 0 && atomicAdd(ended, 1u) + 1 == gridDim.x) {
        *ended = 0;
        *position = next;
        *step = at + 1;
    }
}

#define CHOOSE(T, SUFFIX, EACH)                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) choose_##SUFFIX(                 \
        Options o, float *logits, float *probabilities, const uint8_t *forbidden,             \
        const int *forced, const double *uniforms, int *position, int *step, uint32_t *ended, \
        uint32_t *codes, uint32_t *failed, const T *table, const T *places, float *x          \
    ) {                                                                                       \
        choose<T, EACH>(o, logits, probabilities, forbidden, forced, uniforms, position,      \
                        step, ended, codes, failed, table, places, x);                        \
    }

// For up to 16384 codes, and for any number.
#define CHOOSES(T, SUFFIX)                                                                    \
    CHOOSE(T, held_##SUFFIX, 16)                                                              \
    CHOOSE(T, any_##SUFFIX, 0)

CHOOSES(float, f32)
CHOOSES(__half, f16)
CHOOSES(__nv_bfloat16, bf16)
