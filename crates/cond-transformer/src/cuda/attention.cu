// Attention of one new position of each sequence to those of the cache and to itself.
#include "common.cuh"

constexpr int THREADS = 256;
// Threads that compute a score together, and scores that they have at work.
constexpr int SHARING = 8, AT_ONCE = 8;

// Side by side the queries `[heads dim]`, then keys and values `[shared dim]` each, for each
// of the grid's rows of blocks: `inputs` `[rows, (heads + 2 shared) dim]`, whose biases may
// still have to be added. Keys and values go to the cache, `[rows, shared, room, dim]`, at
// `*position`; `cosine` and `sine` `[.., dim / 2]` turn queries and keys first, where there
// are any. `hidden` `[rows, front]`: of the first `front` positions those that are not seen.
// The result is `[rows, heads dim]`. A block for each head and sequence.
template <typename T, typename OUT>
__device__ __forceinline__ void attend(
    const float *inputs, const T *query_bias, const T *key_bias, const T *value_bias,
    const float *cosine, const float *sine, const uint8_t *hidden, int front,
    const int *position, int shared, int dim, int room, T *keys, T *values, OUT *read
) {
    DYNAMIC_SHARED(float4, memory);
    __shared__ float scratch[THREADS / 32];
    const int heads = gridDim.x, head = blockIdx.x, row = blockIdx.y;
    // Not what an earlier kernel left in the L1 cache.
    const int past = __ldcg(position), of = head / (heads / shared);
    float *query = reinterpret_cast<float *>(memory), *key = query + dim, *value = key + dim;
    float *partial = value + dim;             // a block's worth of four
    float *weights = partial + 4 * THREADS;   // one for each position
    const int64_t start = ((int64_t)row * shared + of) * room * dim;
    const T *all_keys = keys + start, *all_values = values + start;
    // The cache is older than the kernel before, which makes `inputs`.
    for (int i = threadIdx.x * (128 / (int)sizeof(T)); i < past * dim;
         i += THREADS * (128 / (int)sizeof(T))) {
        prefetch(all_keys + i);
        prefetch(all_values + i);
    }
    after_others();
    const float *own = inputs + (int64_t)row * (heads + 2 * shared) * dim;
    auto input = [&](int start, const T *bias, int i) {
        return own[start + i] + (bias == nullptr ? 0.0f : to_float(bias[i]));
    };
    // What is in the cache is what everybody sees, this position too.
    auto stored = [](float x) { return to_float(from_float<T>(x)); };
    const int from_keys = heads * dim, from_values = from_keys + shared * dim;
    for (int pair = threadIdx.x; pair < dim / 2; pair += THREADS) {
        float c = 1.0f, s = 0.0f;
        if (cosine != nullptr) {
            c = cosine[(int64_t)past * (dim / 2) + pair];
            s = sine[(int64_t)past * (dim / 2) + pair];
        }
        const int q = head * dim + 2 * pair, k = of * dim + 2 * pair;
        const float a = input(0, query_bias, q), b = input(0, query_bias, q + 1);
        query[2 * pair] = a * c - b * s;
        query[2 * pair + 1] = b * c + a * s;
        const float d = input(from_keys, key_bias, k), e = input(from_keys, key_bias, k + 1);
        key[2 * pair] = stored(d * c - e * s);
        key[2 * pair + 1] = stored(e * c + d * s);
        value[2 * pair] = stored(input(from_values, value_bias, k));
        value[2 * pair + 1] = stored(input(from_values, value_bias, k + 1));
    }
    __syncthreads();
    // One of the heads that share these writes them; none reads them here.
    if (head % (heads / shared) == 0) {
        for (int i = threadIdx.x; i < dim; i += THREADS) {
            keys[start + (int64_t)past * dim + i] = from_float<T>(key[i]);
            values[start + (int64_t)past * dim + i] = from_float<T>(value[i]);
        }
    }

    // Neighbouring threads share a position: a warp reads whole lines of keys.
    const float scale = 1.0f / sqrtf((float)dim);
    const int first = threadIdx.x / SHARING, part = threadIdx.x % SHARING * 4;
    constexpr int STEP = THREADS / SHARING;
    auto shared_total = [](float score) {
#pragma unroll
        for (int distance = SHARING / 2; distance > 0; distance /= 2)
            score += __shfl_xor_sync(~0u, score, distance);
        return score;
    };
    float largest = -INFINITY;
    for (int begin = 0; begin < past; begin += AT_ONCE * STEP) {
        float scores[AT_ONCE] = {};
        const T *before[AT_ONCE];
#pragma unroll
        for (int n = 0; n < AT_ONCE; ++n)
            before[n] = all_keys + (int64_t)min(begin + n * STEP + first, past - 1) * dim;
        for (int i = part; i < dim; i += 4 * SHARING) {
            Four<T> some[AT_ONCE];
#pragma unroll
            for (int n = 0; n < AT_ONCE; ++n)
                some[n] = *reinterpret_cast<const Four<T> *>(before[n] + i);
            const float4 q = *reinterpret_cast<const float4 *>(query + i);
#pragma unroll
            for (int n = 0; n < AT_ONCE; ++n) scores[n] = dot(q, to_floats(some[n]), scores[n]);
        }
#pragma unroll
        for (int n = 0; n < AT_ONCE; ++n) {
            const int at = begin + n * STEP + first;
            float score = shared_total(scores[n]) * scale;
            if (at >= past) continue;
            if (at < front && hidden[(int64_t)row * front + at]) score = -INFINITY;
            if (part == 0) weights[at] = score;
            largest = fmaxf(largest, score);
        }
    }
    if (threadIdx.x < 32) {
        float score = 0.0f;
        for (int i = part; i < dim; i += 4 * SHARING)
            score = dot(*reinterpret_cast<const float4 *>(query + i),
                        *reinterpret_cast<const float4 *>(key + i), score);
        score = shared_total(score) * scale;
        if (threadIdx.x == 0) weights[past] = score;
        largest = fmaxf(largest, score);
    }
    largest = block_total(largest, Larger(), scratch);
    float total = 0.0f;
    for (int at = threadIdx.x; at <= past; at += THREADS) {
        const float weight = expf(weights[at] - largest);
        weights[at] = weight;
        total += weight;
    }
    // Which waits for all of the weights, too.
    const float share = 1.0f / block_total(total, Add(), scratch);

    // A thread has four columns of every so many positions.
    const int columns = dim / 4, groups = THREADS / columns;
    const int column = threadIdx.x % columns, group = threadIdx.x / columns;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (group < groups) {
        auto add = [&](float weight, float4 v) {
            sum.x = fmaf(weight, v.x, sum.x);
            sum.y = fmaf(weight, v.y, sum.y);
            sum.z = fmaf(weight, v.z, sum.z);
            sum.w = fmaf(weight, v.w, sum.w);
        };
        const T *all = all_values + 4 * column;
        for (int begin = group; begin < past; begin += AT_ONCE * groups) {
            Four<T> some[AT_ONCE];
#pragma unroll
            for (int n = 0; n < AT_ONCE; ++n)
                some[n] = *reinterpret_cast<const Four<T> *>(
                    all + (int64_t)min(begin + n * groups, past - 1) * dim);
#pragma unroll
            for (int n = 0; n < AT_ONCE; ++n)
                if (begin + n * groups < past)
                    add(weights[begin + n * groups], to_floats(some[n]));
        }
        if (group == past % groups)
            add(weights[past], *reinterpret_cast<const float4 *>(value + 4 * column));
        reinterpret_cast<float4 *>(partial)[group * columns + column] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < dim; i += THREADS) {
        float all = 0.0f;
        for (int g = 0; g < groups; ++g) all += partial[g * dim + i];
        read[((int64_t)row * heads + head) * dim + i] = from_float<OUT>(all * share);
    }
}

#define ATTEND(T, OUT, SUFFIX)                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS) attend_##SUFFIX(                    \
        const float *inputs, const T *query_bias, const T *key_bias, const T *value_bias,     \
        const float *cosine, const float *sine, const uint8_t *hidden, int front,             \
        const int *position, int shared, int dim, int room, T *keys, T *values, OUT *read     \
    ) {                                                                                       \
        attend<T, OUT>(inputs, query_bias, key_bias, value_bias, cosine, sine, hidden, front, \
                       position, shared, dim, room, keys, values, read);                      \
    }

// For the products of `linear.cu`, which take f32, and those of cuBLAS, which take the
// weights' format.
ATTEND(float, float, few_f32)
ATTEND(__half, float, few_f16)
ATTEND(__nv_bfloat16, float, few_bf16)
ATTEND(float, float, many_f32)
ATTEND(__half, __half, many_f16)
ATTEND(__nv_bfloat16, __nv_bfloat16, many_bf16)
