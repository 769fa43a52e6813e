// Attention of many heads without the matrix of weights (Dao et al. 2022, 2023): tiles of
// scores live in registers, and what is summed up by rows is corrected as larger scores
// turn up. Queries are `[B, T, H D]`, keys and values `[B, T, H' D]`, read as they lie.
// Every sum has one order, so that results do not depend on how blocks are scheduled.
//
// A block has 128 threads, in 8 rows of 16: thread (y, x) has rows y, y + 8, .. of a tile
// of scores and columns x, x + 16, ..; with neighbouring columns instead, its reads of
// keys would hit the same banks. Half a warp has whole rows.
#pragma once
#include "attention_tiles.cuh"

// The sizes that all kernels get.
struct Sizes {
    uint32_t len, dim, heads, shared, unmasked;
    // Whether four neighbours, from every multiple of four on, are loaded at once.
    uint32_t aligned;

    // How many keys, from the first on, `query` sees; none if there is no such query.
    __device__ __forceinline__ uint32_t visible(uint32_t query) const {
        if (query >= len) return 0;
        return query < unmasked ? min(unmasked, len) : query + 1;
    }

    // How many keys the queries of a tile see.
    __device__ __forceinline__ uint32_t seen_from(uint32_t first) const {
        const uint32_t last = min(first + TILE, len) - 1;
        return max(visible(first), visible(last));
    }

    // The first query that sees `key`: all behind it do.
    __device__ __forceinline__ uint32_t first_to_see(uint32_t key) const {
        return key < unmasked ? 0 : key;
    }

    // Where a head's vector at a position of sample `b` begins, of queries and of keys.
    __device__ __forceinline__ size_t query_at(uint32_t b, uint32_t at, uint32_t head) const {
        return ((size_t)b * len + at) * heads * dim + (size_t)head * dim;
    }
    __device__ __forceinline__ size_t key_at(uint32_t b, uint32_t at, uint32_t head) const {
        return ((size_t)b * len + at) * shared * dim + (size_t)head * dim;
    }
};

// What a block works on: blocks of one tile follow each other, so that those with most to
// do can begin first.
struct Work {
    uint32_t tile, pair;
    __device__ __forceinline__ explicit Work(uint32_t len) {
        const uint32_t tiles = (len + TILE - 1) / TILE, pairs = gridDim.x / tiles;
        tile = blockIdx.x / pairs;
        pair = blockIdx.x % pairs;
    }
};

// What a tile of queries reads, to `to`; or, on the way BACK, the logarithm (of base 2)
// of the sum that each row's weights were divided by, and how much the row's gradients
// `dy` would change if all its scores did, to `stats`. `factor` is the scale of scores
// times log2(e). Grid: tiles of queries x (samples x heads).
template <typename T, int DIM, bool BACK>
__device__ void attend(const T *q, const T *k, const T *v, const T *dy, const Sizes sizes,
                       float factor, T *to, float2 *stats) {
    using Plan = Forward<DIM>;
    constexpr int COLUMNS = DIM / ACROSS;
    float *queries = attention_memory(), *keys = queries + Plan::QUERIES;
    float *values = keys + Plan::KEYS, *weights = keys;
    const uint32_t x = threadIdx.x % ACROSS, y = threadIdx.x / ACROSS;
    const Work work(sizes.len);
    // The last see most keys.
    const uint32_t first = ((sizes.len - 1) / TILE - work.tile) * TILE;
    const uint32_t b = work.pair / sizes.heads, head = work.pair % sizes.heads;
    const uint32_t serving = head / (sizes.heads / sizes.shared);
    const size_t width = (size_t)sizes.heads * sizes.dim;
    const size_t key_width = (size_t)sizes.shared * sizes.dim;
    const size_t own = sizes.query_at(b, first, head);
    fetch<T, DIM, TILE>(q + own, width, sizes.len - first, sizes.dim, sizes.aligned, queries);
    float most[TALL], total[TALL], read[TALL][COLUMNS];
#pragma unroll
    for (int i = 0; i < TALL; ++i) {
        most[i] = -INFINITY;
        total[i] = 0.0f;
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) read[i][c] = 0.0f;
    }
    const uint32_t end = sizes.seen_from(first);
    for (uint32_t from = 0; from < end; from += TILE) {
        // The tiles before were used.
        __syncthreads();
        const size_t at = sizes.key_at(b, from, serving);
        const uint32_t left = sizes.len - from;
        fetch<T, DIM, TILE>(k + at, key_width, left, sizes.dim, sizes.aligned, keys);
        fetch<T, DIM, TILE>(v + at, key_width, left, sizes.dim, sizes.aligned, values);
        __syncthreads();
        float scores[TALL][WIDE];
        products<DIM>(queries, keys, scores);
        // The weights take the keys' place.
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TALL; ++i) {
            const uint32_t row = y + i * DOWN, seen = sizes.visible(first + row);
            float largest = -INFINITY;
#pragma unroll
            for (int j = 0; j < WIDE; ++j) {
                const bool sees = from + x + j * ACROSS < seen;
                scores[i][j] = sees ? scores[i][j] * factor : -INFINITY;
                largest = fmaxf(largest, scores[i][j]);
            }
            // Every row sees the first key, so that from the first tile on this is finite
            // if all scores are.
            largest = fmaxf(most[i], across(largest, Max()));
            const float correction = exp2f(most[i] - largest);
            most[i] = largest;
            total[i] *= correction;
#pragma unroll
            for (int j = 0; j < WIDE; ++j) {
                const float weight = exp2f(scores[i][j] - largest);
                total[i] += weight;
                weights[row * (TILE + PAD) + x + j * ACROSS] = weight;
            }
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) read[i][c] *= correction;
        }
        // Who reads a row has written it, or is of the same warp.
        __syncwarp();
        add_rows<DIM, TILE>(weights, values, read);
    }
#pragma unroll
    for (int i = 0; i < TALL; ++i) {
        const uint32_t row = y + i * DOWN;
        const float sum = across(total[i], Sum());
        const float share = 1.0f / sum;
        const bool exists = first + row < sizes.len;
        const size_t at = own + row * width;
        if (BACK) {
            float change = 0.0f;
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) {
                const uint32_t d = column<DIM>(x, c);
                if (exists && d < sizes.dim) change += read[i][c] * share * to_float(dy[at + d]);
            }
            change = across(change, Sum());
            if (exists && x == 0)
                stats[(size_t)work.pair * sizes.len + first + row] = {most[i] + log2f(sum),
                                                                      change};
        } else if (exists) {
            put<T, DIM>(read[i], share, sizes.dim, sizes.aligned, to + at);
        }
    }
}

// The gradients to a tile of keys and values, summed over the heads that it serves.
// Grid: tiles of keys x (samples x heads of keys).
template <typename T, int DIM>
__device__ void attend_back_keys(const T *q, const T *k, const T *v, const T *dy,
                                 const float2 *stats, const Sizes sizes, float factor,
                                 float scale, T *dk, T *dv) {
    using Plan = BackKeys<DIM>;
    constexpr int QUERIES = Plan::COUNT, ROWS = QUERIES / DOWN, COLUMNS = DIM / ACROSS;
    float *keys = attention_memory(), *values = keys + Plan::KEYS;
    float *queries = values + Plan::KEYS, *upstream = queries + Plan::QUERIES;
    float *weights = upstream + Plan::QUERIES;
    float2 *known = reinterpret_cast<float2 *>(weights + Plan::WEIGHTS);
    const uint32_t x = threadIdx.x % ACROSS, y = threadIdx.x / ACROSS;
    const Work work(sizes.len);
    const uint32_t first = work.tile * TILE;
    const uint32_t b = work.pair / sizes.shared, serving = work.pair % sizes.shared;
    const uint32_t group = sizes.heads / sizes.shared;
    const size_t width = (size_t)sizes.heads * sizes.dim;
    const size_t key_width = (size_t)sizes.shared * sizes.dim;
    const size_t own = sizes.key_at(b, first, serving);
    const uint32_t count = sizes.len - first;
    fetch<T, DIM, TILE>(k + own, key_width, count, sizes.dim, sizes.aligned, keys);
    fetch<T, DIM, TILE>(v + own, key_width, count, sizes.dim, sizes.aligned, values);
    float to_keys[TALL][COLUMNS], to_values[TALL][COLUMNS];
#pragma unroll
    for (int i = 0; i < TALL; ++i)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) to_keys[i][c] = to_values[i][c] = 0.0f;
    for (uint32_t head = serving * group; head < (serving + 1) * group; ++head) {
        const float2 *rows = stats + ((size_t)b * sizes.heads + head) * sizes.len;
        for (uint32_t from = sizes.first_to_see(first); from < sizes.len; from += QUERIES) {
            // The tiles before were used.
            __syncthreads();
            const size_t at = sizes.query_at(b, from, head);
            const uint32_t left = sizes.len - from;
            fetch<T, DIM, QUERIES>(q + at, width, left, sizes.dim, sizes.aligned, queries);
            fetch<T, DIM, QUERIES>(dy + at, width, left, sizes.dim, sizes.aligned, upstream);
            if (threadIdx.x < QUERIES)
                known[threadIdx.x] = threadIdx.x < left ? rows[from + threadIdx.x]
                                                        : make_float2(0.0f, 0.0f);
            __syncthreads();
            float scores[ROWS][WIDE], gradients[ROWS][WIDE];
            products<DIM>(queries, keys, scores);
            products<DIM>(upstream, values, gradients);
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                const uint32_t row = y + i * DOWN, seen = sizes.visible(from + row);
                const float2 facts = known[row];
#pragma unroll
                for (int j = 0; j < WIDE; ++j) {
                    const bool sees = first + x + j * ACROSS < seen;
                    const float weight = sees ? exp2f(scores[i][j] * factor - facts.x) : 0.0f;
                    scores[i][j] = sees ? weight * (gradients[i][j] - facts.y) : 0.0f;
                    weights[row * (TILE + PAD) + x + j * ACROSS] = weight;
                }
            }
            __syncthreads();
            add_columns<DIM, QUERIES>(weights, upstream, to_values);
            // Gradients of scores take the weights' place.
            __syncthreads();
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
#pragma unroll
                for (int j = 0; j < WIDE; ++j)
                    weights[(y + i * DOWN) * (TILE + PAD) + x + j * ACROSS] = scores[i][j];
            __syncthreads();
            add_columns<DIM, QUERIES>(weights, queries, to_keys);
        }
    }
#pragma unroll
    for (int i = 0; i < TALL; ++i) {
        const uint32_t row = y * TALL + i;
        if (row >= count) continue;
        const size_t at = own + row * key_width;
        put<T, DIM>(to_keys[i], scale, sizes.dim, sizes.aligned, dk + at);
        put<T, DIM>(to_values[i], 1.0f, sizes.dim, sizes.aligned, dv + at);
    }
}

// The gradients to a tile of queries. Grid: tiles of queries x (samples x heads).
template <typename T, int DIM>
__device__ void attend_back_queries(const T *q, const T *k, const T *v, const T *dy,
                                    const float2 *stats, const Sizes sizes, float factor,
                                    float scale, T *dq) {
    using Plan = BackQueries<DIM>;
    constexpr int KEYS = Plan::COUNT, ACROSS_KEYS = KEYS / ACROSS, COLUMNS = DIM / ACROSS;
    float *queries = attention_memory(), *upstream = queries + Plan::QUERIES;
    float *keys = upstream + Plan::QUERIES, *values = keys + Plan::KEYS;
    float *changes = values;
    float2 *known = reinterpret_cast<float2 *>(values + Plan::VALUES);
    const uint32_t x = threadIdx.x % ACROSS, y = threadIdx.x / ACROSS;
    const Work work(sizes.len);
    const uint32_t first = ((sizes.len - 1) / TILE - work.tile) * TILE;
    const uint32_t b = work.pair / sizes.heads, head = work.pair % sizes.heads;
    const uint32_t serving = head / (sizes.heads / sizes.shared);
    const size_t width = (size_t)sizes.heads * sizes.dim;
    const size_t key_width = (size_t)sizes.shared * sizes.dim;
    const size_t own = sizes.query_at(b, first, head);
    const uint32_t count = sizes.len - first;
    fetch<T, DIM, TILE>(q + own, width, count, sizes.dim, sizes.aligned, queries);
    fetch<T, DIM, TILE>(dy + own, width, count, sizes.dim, sizes.aligned, upstream);
    if (threadIdx.x < TILE)
        known[threadIdx.x] = threadIdx.x < count
                                 ? stats[(size_t)work.pair * sizes.len + first + threadIdx.x]
                                 : make_float2(0.0f, 0.0f);
    float sums[TALL][COLUMNS];
#pragma unroll
    for (int i = 0; i < TALL; ++i)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) sums[i][c] = 0.0f;
    const uint32_t end = sizes.seen_from(first);
    for (uint32_t from = 0; from < end; from += KEYS) {
        // The tiles before were used.
        __syncthreads();
        const size_t at = sizes.key_at(b, from, serving);
        const uint32_t left = sizes.len - from;
        fetch<T, DIM, KEYS>(k + at, key_width, left, sizes.dim, sizes.aligned, keys);
        fetch<T, DIM, KEYS>(v + at, key_width, left, sizes.dim, sizes.aligned, values);
        __syncthreads();
        float scores[TALL][ACROSS_KEYS], gradients[TALL][ACROSS_KEYS];
        products<DIM>(queries, keys, scores);
        products<DIM>(upstream, values, gradients);
        // Gradients of scores take the values' place.
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TALL; ++i) {
            const uint32_t row = y + i * DOWN, seen = sizes.visible(first + row);
            const float2 facts = known[row];
#pragma unroll
            for (int j = 0; j < ACROSS_KEYS; ++j) {
                const bool sees = from + x + j * ACROSS < seen;
                const float weight = exp2f(scores[i][j] * factor - facts.x);
                changes[row * (KEYS + PAD) + x + j * ACROSS] =
                    sees ? weight * (gradients[i][j] - facts.y) : 0.0f;
            }
        }
        // Who reads a row has written it, or is of the same warp.
        __syncwarp();
        add_rows<DIM, KEYS>(changes, keys, sums);
    }
#pragma unroll
    for (int i = 0; i < TALL; ++i) {
        const uint32_t row = y + i * DOWN;
        if (row < count)
            put<T, DIM>(sums[i], scale, sizes.dim, sizes.aligned, dq + own + row * width);
    }
}

#define ATTENTION_KERNELS(T, SUFFIX, DIM)                                                     \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, Forward<DIM>::BLOCKS)     \
        attend_##SUFFIX##_##DIM(const T *q, const T *k, const T *v, const Sizes sizes,        \
                                float factor, T *to) {                                        \
        attend<T, DIM, false>(q, k, v, nullptr, sizes, factor, to, nullptr);                  \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, Forward<DIM>::BLOCKS)     \
        attend_stats_##SUFFIX##_##DIM(const T *q, const T *k, const T *v, const T *dy,        \
                                      const Sizes sizes, float factor, float2 *stats) {       \
        attend<T, DIM, true>(q, k, v, dy, sizes, factor, nullptr, stats);                     \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, BackKeys<DIM>::BLOCKS)    \
        attend_back_keys_##SUFFIX##_##DIM(const T *q, const T *k, const T *v, const T *dy,    \
                                          const float2 *stats, const Sizes sizes,             \
                                          float factor, float scale, T *dk, T *dv) {          \
        attend_back_keys<T, DIM>(q, k, v, dy, stats, sizes, factor, scale, dk, dv);           \
    }                                                                                         \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, BackQueries<DIM>::BLOCKS) \
        attend_back_queries_##SUFFIX##_##DIM(const T *q, const T *k, const T *v, const T *dy, \
                                             const float2 *stats, const Sizes sizes,          \
                                             float factor, float scale, T *dq) {              \
        attend_back_queries<T, DIM>(q, k, v, dy, stats, sizes, factor, scale, dq);            \
    }

#define ATTENTION_KERNELS_OF(T, SUFFIX)                                                       \
    ATTENTION_KERNELS(T, SUFFIX, 32)                                                          \
    ATTENTION_KERNELS(T, SUFFIX, 64)                                                          \
    ATTENTION_KERNELS(T, SUFFIX, 128)
