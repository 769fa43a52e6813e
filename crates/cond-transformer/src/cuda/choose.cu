// One code from the logits of each sequence, by the rules of `sampling/`: guidance,
// temperature, top-k, top-p, and the inverse of the summed probabilities in the order of
// codes. Sums are in f64 or in one order, so that a code depends on nothing but its row.
#include "common.cuh"

constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / 32;

// As `choose.rs` has it.
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

// Sums of what threads before this one have; `total` is that of all.
template <typename V>
__device__ __forceinline__ V sum_before(V own, V *scratch, V *total) {
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
    V before = 0, all = 0;
    for (int w = 0; w < WARPS; ++w) {
        if (w == warp) before = all;
        all += scratch[w];
    }
    *total = all;
    return before + sum - own;
}

// A block for each sequence. `logits` `[sequences or twice as many, V]` are left filtered;
// `probabilities` `[sequences, V]` is scratch. `forced` and `uniforms` are
// `[sequences, length]`: codes that are given, or -1, and numbers in [0, 1). What fails is
// noted in `failed`: 1 + 2 * position, and 1 more where nothing is left.
template <typename T>
__device__ __forceinline__ void choose(
    Options o, float *logits, float *probabilities, const uint8_t *forbidden,
    const int *forced, const double *uniforms, int *position, int *step, uint32_t *ended,
    uint32_t *codes, uint32_t *failed, const T *table, const T *places, float *x
) {
    __shared__ double doubles[WARPS];
    __shared__ float floats[WARPS];
    __shared__ uint32_t counts[WARPS];
    __shared__ uint32_t chosen;
    const int sequence = blockIdx.x, vocabulary = o.vocabulary, at = *step;
    const int next = *position + 1;
    float *row = logits + (int64_t)sequence * vocabulary;
    float *shares = probabilities + (int64_t)sequence * vocabulary;
    const float *without = row + (int64_t)o.sequences * vocabulary;
    const int given = forced[sequence * o.length + at];

    uint32_t code = 0, error = 0;
    if (given < 0) {
        uint32_t wrong = 0;
        float largest = -INFINITY;
        const bool guided = o.scale > 0.0 && at <= o.guided_until;
        const float scale = (float)o.scale;
        for (int i = threadIdx.x; i < vocabulary; i += THREADS) {
            float logit = row[i];
            if (guided) logit = without[i] + (logit - without[i]) * scale;
            wrong |= isnan(logit) || logit == INFINITY;
            if (forbidden != nullptr && forbidden[i]) logit = -INFINITY;
            largest = fmaxf(largest, logit);
            row[i] = logit;
        }
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
        for (int i = threadIdx.x; i < vocabulary; i += THREADS) largest = fmaxf(largest, row[i]);
        largest = block_total(largest, Larger(), floats);
        for (int i = threadIdx.x; i < vocabulary; i += THREADS)
            if (row[i] == largest && first == 0) first = ~(uint32_t)i;
        code = ~block_total(first, Larger(), counts);
    } else if (error == 0) {
        float largest = -INFINITY;
        for (int i = threadIdx.x; i < vocabulary; i += THREADS) {
            if (o.temperature != 1.0f) row[i] /= o.temperature;
            largest = fmaxf(largest, row[i]);
        }
        largest = block_total(largest, Larger(), floats);
        const uint32_t highest = order(largest);
        // Kept is what is of this order or a higher one.
        uint32_t lowest = NOTHING;
        if (o.top_k > 0 && o.top_k < vocabulary)
            lowest = last_that(NOTHING, highest, [&](uint32_t least) {
                uint32_t count = 0;
                for (int i = threadIdx.x; i < vocabulary; i += THREADS)
                    count += order(row[i]) >= least;
                return block_total(count, Add(), counts) >= (uint32_t)o.top_k;
            });
        // And of those of the lowest order only so many, the first ones.
        uint32_t of_lowest = ~0u;
        if (o.top_p < 1.0f) {
            double sum = 0.0;
            for (int i = threadIdx.x; i < vocabulary; i += THREADS) {
                const bool kept = order(row[i]) >= lowest && row[i] > -INFINITY;
                shares[i] = kept ? expf(row[i] - largest) : 0.0f;
                sum += shares[i];
            }
            const float total = (float)block_total(sum, Add(), doubles);
            for (int i = threadIdx.x; i < vocabulary; i += THREADS) shares[i] /= total;
            // What those have that are at least so large.
            auto mass = [&](uint32_t least) {
                double sum = 0.0;
                for (int i = threadIdx.x; i < vocabulary; i += THREADS)
                    if (order(row[i]) >= least) sum += shares[i];
                return block_total(sum, Add(), doubles);
            };
            if ((float)mass(lowest) > o.top_p) {
                lowest = last_that(lowest, highest,
                                   [&](uint32_t least) { return (float)mass(least) > o.top_p; });
                const double above = mass(lowest + 1);
                uint32_t equal = 0;
                float share = 0.0f;
                for (int i = threadIdx.x; i < vocabulary; i += THREADS)
                    if (order(row[i]) == lowest) {
                        ++equal;
                        share = shares[i];
                    }
                equal = block_total(equal, Add(), counts);
                share = block_total(share, Larger(), floats);
                // The fewest that bring it above.
                of_lowest = equal - last_that(0, equal - 1, [&](uint32_t fewer) {
                    return (float)(above + (double)share * (equal - fewer)) > o.top_p;
                });
            }
        }
        // Each thread has neighbouring codes now.
        const int each = (vocabulary + THREADS - 1) / THREADS;
        const int from = min((int)threadIdx.x * each, vocabulary);
        const int to = min(from + each, vocabulary);
        uint32_t equal = 0, all_equal;
        for (int i = from; i < to; ++i) equal += order(row[i]) == lowest;
        uint32_t rank = sum_before(equal, counts, &all_equal);
        double sum = 0.0;
        for (int i = from; i < to; ++i) {
            const uint32_t own = order(row[i]);
            const bool kept = own > lowest || (own == lowest && rank < of_lowest);
            rank += own == lowest;
            if (!kept) row[i] = -INFINITY;
            else if (row[i] > -INFINITY) sum += exp((double)(row[i] - largest));
        }
        double total;
        const double before = sum_before(sum, doubles, &total);
        // Rounding may leave a crumb behind the last possible code.
        if (threadIdx.x == 0) chosen = 0;
        uint32_t last = 0;
        for (int i = from; i < to; ++i)
            if (row[i] > -INFINITY && exp((double)(row[i] - largest)) > 0.0) last = i;
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

#define CHOOSE(T, SUFFIX)                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) choose_##SUFFIX(                    \
        Options o, float *logits, float *probabilities, const uint8_t *forbidden,             \
        const int *forced, const double *uniforms, int *position, int *step, uint32_t *ended, \
        uint32_t *codes, uint32_t *failed, const T *table, const T *places, float *x          \
    ) {                                                                                       \
        choose<T>(o, logits, probabilities, forbidden, forced, uniforms, position, step,      \
                  ended, codes, failed, table, places, x);                                    \
    }

CHOOSE(float, f32)
CHOOSE(__half, f16)
CHOOSE(__nv_bfloat16, bf16)
