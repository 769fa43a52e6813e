// Attention of one new position of each sequence to those of the cache and to itself.
#include "common.cuh"

constexpr int THREADS = 256;

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
    extern __shared__ float4 memory[];
    __shared__ float scratch[THREADS / 32];
    const int heads = gridDim.x, head = blockIdx.x, row = blockIdx.y;
    const int past = *position, of = head / (heads / shared);
    float *query = reinterpret_cast<float *>(memory), *key = query + dim, *value = key + dim;
    float *partial = value + dim;             // a block's worth of four
    float *weights = partial + 4 * THREADS;   // one for each position
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
    const int64_t start = ((int64_t)row * shared + of) * room * dim;
    const T *all_keys = keys + start, *all_values = values + start;
    // One of the heads that share these writes them; none reads them here.
    if (head % (heads / shared) == 0) {
        for (int i = threadIdx.x; i < dim; i += THREADS) {
            keys[start + (int64_t)past * dim + i] = from_float<T>(key[i]);
            values[start + (int64_t)past * dim + i] = from_float<T>(value[i]);
        }
    }

    const float scale = 1.0f / sqrtf((float)dim);
    float largest = -INFINITY;
    for (int at = threadIdx.x; at <= past; at += THREADS) {
        float score = 0.0f;
        for (int i = 0; i < dim; i += 4) {
            const float4 q = *reinterpret_cast<const float4 *>(query + i);
            const float4 k = at == past ? *reinterpret_cast<const float4 *>(key + i)
                                        : load_four(all_keys + (int64_t)at * dim + i);
            score = dot(q, k, score);
        }
        score *= scale;
        if (at != past && at < front && hidden[(int64_t)row * front + at]) score = -INFINITY;
        weights[at] = score;
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
#pragma unroll 4
        for (int at = group; at <= past; at += groups) {
            const float weight = weights[at];
            const float4 v = at == past
                ? *reinterpret_cast<const float4 *>(value + 4 * column)
                : load_four(all_values + (int64_t)at * dim + 4 * column);
            sum.x = fmaf(weight, v.x, sum.x);
            sum.y = fmaf(weight, v.y, sum.y);
            sum.z = fmaf(weight, v.z, sum.z);
            sum.w = fmaf(weight, v.w, sum.w);
        }
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
