// What transformers have besides matrix products and norms: soft-max of scores and of
// logits, rotary positions, embeddings, dropout.
#include "common.cuh"

// How many keys, from the first on, `query` sees: the first `unmasked` positions see each
// other, all others what lies before them.
__device__ __forceinline__ uint32_t visible(uint32_t query, uint32_t unmasked, uint32_t len) {
    return query < unmasked ? min(unmasked, len) : query + 1;
}

// Turns rows of `len` scores, times `scale`, into weights: `[.., len, len]`.
// Grid: rows.
template <typename T>
__device__ void attention_weights(const T *scores, uint32_t len, uint32_t unmasked, float scale,
                                  T *weights) {
    const T *row = scores + (size_t)blockIdx.x * len;
    T *to = weights + (size_t)blockIdx.x * len;
    const uint32_t seen = visible(blockIdx.x % len, unmasked, len);
    Largest most = {-INFINITY};
    for (uint32_t at = threadIdx.x; at < seen; at += blockDim.x)
        most = combine(most, Largest{to_float(row[at]) * scale});
    most = block_total(most);
    Pair total = {0.0f, 0.0f};
    for (uint32_t at = threadIdx.x; at < seen; at += blockDim.x)
        total.a += expf(to_float(row[at]) * scale - most.value);
    const float share = 1.0f / block_total(total).a;
    for (uint32_t at = threadIdx.x; at < len; at += blockDim.x)
        to[at] = from_float<T>(
            at < seen ? expf(to_float(row[at]) * scale - most.value) * share : 0.0f);
}

// Turns gradients of weights into those of scores before they were scaled. Grid: rows.
template <typename T>
__device__ void attention_weights_back(const T *weights, const T *gradients, uint32_t len,
                                       float scale, T *scores) {
    const T *own = weights + (size_t)blockIdx.x * len;
    const T *row = gradients + (size_t)blockIdx.x * len;
    T *to = scores + (size_t)blockIdx.x * len;
    Pair mean = {0.0f, 0.0f};
    for (uint32_t at = threadIdx.x; at < len; at += blockDim.x)
        mean.a += to_float(own[at]) * to_float(row[at]);
    mean = block_total(mean);
    for (uint32_t at = threadIdx.x; at < len; at += blockDim.x)
        to[at] = from_float<T>(to_float(own[at]) * (to_float(row[at]) - mean.a) * scale);
}

// The negative log-likelihood of each row's target, and where `gradients` is not null the
// gradient to the logits of `share` times the sum of all. Grid: rows.
template <typename T>
__device__ void surprise(const T *logits, const uint32_t *targets, uint32_t classes,
                         float share, float *nll, T *gradients) {
    const T *row = logits + (size_t)blockIdx.x * classes;
    const uint32_t target = targets[blockIdx.x];
    const float logit = to_float(row[target]);
    Largest most = {-INFINITY};
    for (uint32_t at = threadIdx.x; at < classes; at += blockDim.x)
        most = combine(most, Largest{to_float(row[at])});
    most = block_total(most);
    Pair total = {0.0f, 0.0f};
    for (uint32_t at = threadIdx.x; at < classes; at += blockDim.x)
        total.a += expf(to_float(row[at]) - most.value);
    total = block_total(total);
    if (threadIdx.x == 0) nll[blockIdx.x] = logf(total.a) + most.value - logit;
    if (gradients == nullptr) return;
    T *to = gradients + (size_t)blockIdx.x * classes;
    const float scale = share / total.a;
    for (uint32_t at = threadIdx.x; at < classes; at += blockDim.x) {
        const float value = expf(to_float(row[at]) - most.value) * scale;
        to[at] = from_float<T>(at == target ? value - share : value);
    }
}

// Turns neighbouring pairs of every head by the angles of their row's position, or by the
// opposite ones where `sign` is -1. Grid: rows x blocks of pairs.
template <typename T>
__device__ void rotate(const T *x, const float *cosine, const float *sine, uint32_t positions,
                       uint32_t half, uint32_t pairs, float sign, T *y) {
    const uint32_t pair = blockIdx.y * blockDim.x + threadIdx.x;
    if (pair >= pairs) return;
    const size_t at = ((size_t)blockIdx.x * pairs + pair) * 2;
    const size_t angle = (size_t)(blockIdx.x % positions) * half + pair % half;
    const float c = cosine[angle], s = sign * sine[angle];
    const float a = to_float(x[at]), b = to_float(x[at + 1]);
    y[at] = from_float<T>(a * c - b * s);
    y[at + 1] = from_float<T>(b * c + a * s);
}

// The rows of a table that tokens name; NaN for a token that names none.
// Grid: tokens.
template <typename T>
__device__ void embed(const T *table, const uint32_t *tokens, uint32_t len, uint32_t width,
                      T *y) {
    const uint32_t token = tokens[blockIdx.x];
    const T *row = table + (size_t)(token < len ? token : 0) * width;
    for (uint32_t at = threadIdx.x; at < width; at += blockDim.x)
        y[(size_t)blockIdx.x * width + at] = token < len ? row[at] : from_float<T>(NAN);
}

// The sums of those rows of `dy` that came from each row of a table, in order.
// Grid: rows of the table.
template <typename T>
__device__ void embed_back(const T *dy, const uint32_t *tokens, uint32_t count, uint32_t width,
                           T *to) {
    __shared__ uint32_t found[THREADS], counts[THREADS / 32];
    T *sums = to + (size_t)blockIdx.x * width;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // Columns that a thread adds up at a time; rows wider than a block's worth of them
    // are gone through again.
    constexpr int COLUMNS = 4;
    for (uint32_t start = 0; start < width; start += blockDim.x * COLUMNS) {
        float own[COLUMNS] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (uint32_t tile = 0; tile < count; tile += blockDim.x) {
            const uint32_t at = tile + threadIdx.x;
            const bool hit = at < count && tokens[at] == blockIdx.x;
            const uint32_t hits = __ballot_sync(~0u, hit);
            // What is in `found` was used.
            __syncthreads();
            if (lane == 0) counts[warp] = __popc(hits);
            __syncthreads();
            uint32_t before = 0, all = 0;
            for (uint32_t w = 0; w < blockDim.x / 32; ++w) {
                before += w < warp ? counts[w] : 0;
                all += counts[w];
            }
            if (hit) found[before + __popc(hits & ((1u << lane) - 1))] = at;
            __syncthreads();
            for (uint32_t i = 0; i < all; ++i) {
                const T *row = dy + (size_t)found[i] * width;
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) {
                    const uint32_t column = start + j * blockDim.x + threadIdx.x;
                    if (column < width) own[j] += to_float(row[column]);
                }
            }
        }
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            const uint32_t column = start + j * blockDim.x + threadIdx.x;
            if (column < width) sums[column] = from_float<T>(own[j]);
        }
    }
}

__device__ __forceinline__ void quarter_round(uint32_t &a, uint32_t &b, uint32_t &c,
                                              uint32_t &d) {
    a += b;
    d = __funnelshift_l(d ^ a, d ^ a, 16);
    c += d;
    b = __funnelshift_l(b ^ c, b ^ c, 12);
    a += b;
    d = __funnelshift_l(d ^ a, d ^ a, 8);
    c += d;
    b = __funnelshift_l(b ^ c, b ^ c, 7);
}

// Elements left out or scaled up by the mask of `sequence/dropout.rs`: 32 elements of a
// row for each block of ChaCha8, counted from the row's first. `key` has eight words of
// key and two of the stream's number. A thread for each block.
template <typename T>
__device__ void dropout(const T *x, uint64_t rows, uint32_t width, const uint32_t *key,
                        uint32_t threshold, float scale, T *y) {
    const uint32_t blocks = (width + 31) / 32;
    const uint64_t block = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (block >= rows * blocks) return;
    uint32_t state[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574,
                          key[0],     key[1],     key[2],     key[3],
                          key[4],     key[5],     key[6],     key[7],
                          (uint32_t)block, (uint32_t)(block >> 32), key[8], key[9]};
    uint32_t v[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) v[i] = state[i];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        quarter_round(v[0], v[4], v[8], v[12]);
        quarter_round(v[1], v[5], v[9], v[13]);
        quarter_round(v[2], v[6], v[10], v[14]);
        quarter_round(v[3], v[7], v[11], v[15]);
        quarter_round(v[0], v[5], v[10], v[15]);
        quarter_round(v[1], v[6], v[11], v[12]);
        quarter_round(v[2], v[7], v[8], v[13]);
        quarter_round(v[3], v[4], v[9], v[14]);
    }
    const uint64_t row = block / blocks;
    const uint32_t first = (uint32_t)(block % blocks) * 32;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        const uint32_t word = v[i] + state[i];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const uint32_t column = first + 2 * i + j;
            if (column < width) {
                const uint32_t drawn = (word >> (16 * j)) & 0xffff;
                const size_t at = row * width + column;
                // As the CPU does it: what is not a number stays so.
                y[at] = from_float<T>(to_float(x[at]) * (drawn < threshold ? 0.0f : scale));
            }
        }
    }
}

#define KERNELS(T, SUFFIX)                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_weights_##SUFFIX(         \
        const T *scores, uint32_t len, uint32_t unmasked, float scale, T *weights) {          \
        attention_weights<T>(scores, len, unmasked, scale, weights);                          \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_weights_back_##SUFFIX(    \
        const T *weights, const T *gradients, uint32_t len, float scale, T *scores) {         \
        attention_weights_back<T>(weights, gradients, len, scale, scores);                    \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) surprise_##SUFFIX(                  \
        const T *logits, const uint32_t *targets, uint32_t classes, float share, float *nll,  \
        T *gradients) {                                                                       \
        surprise<T>(logits, targets, classes, share, nll, gradients);                         \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) rotate_##SUFFIX(                    \
        const T *x, const float *cosine, const float *sine, uint32_t positions,               \
        uint32_t half, uint32_t pairs, float sign, T *y) {                                    \
        rotate<T>(x, cosine, sine, positions, half, pairs, sign, y);                          \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) embed_##SUFFIX(                     \
        const T *table, const uint32_t *tokens, uint32_t len, uint32_t width, T *y) {         \
        embed<T>(table, tokens, len, width, y);                                               \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) embed_back_##SUFFIX(                \
        const T *dy, const uint32_t *tokens, uint32_t count, uint32_t width, T *to) {         \
        embed_back<T>(dy, tokens, count, width, to);                                          \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS) dropout_##SUFFIX(                   \
        const T *x, uint64_t rows, uint32_t width, const uint32_t *key, uint32_t threshold,   \
        float scale, T *y) {                                                                  \
        dropout<T>(x, rows, width, key, threshold, scale, y);                                 \
    }

KERNELS(float, f32)
KERNELS(__half, f16)
KERNELS(__nv_bfloat16, bf16)
