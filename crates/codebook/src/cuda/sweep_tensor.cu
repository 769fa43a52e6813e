// The sweep on Hopper's tensor cores. Vectors and codes are rounded to f16, which the
// bound on errors accounts for: what may be the nearest code goes to `resolve`.
//
// A block has its vectors in shared memory for good. One warp has the copy engine bring
// tiles of codes, 64 dimensions at a time, which lie in memory as they will lie here
// (prepare.cu), as far ahead as there is room; two warpgroups multiply them with half of
// the vectors each and look at the scores in registers: no score is ever written.
// (Tried, and slower on an H200: pairs of blocks that have the copies made for both, and
// blocks of 256 vectors with tiles of 128 codes. Both halve the traffic from the L2 cache.)
#include "facts.cuh"
#include "hopper.cuh"
#include "products.cuh"

constexpr int ROWS = 128;              // vectors of a block
constexpr int CHUNK = 64;              // dimensions at a time
constexpr int CONSUMERS = 2;           // warpgroups that multiply
constexpr int STAGES = 8;              // at most
constexpr int START_BUFFERS = 10;      // more tiles than can be in flight
constexpr uint32_t CODES_BYTES = TILE * CHUNK * 2;
constexpr uint32_t VECTORS_BYTES = ROWS * CHUNK * 2;
constexpr uint32_t STARTS_BYTES = TILE * 4;

struct Control {
    uint64_t full[STAGES], empty[STAGES], vectors;
    uint32_t count[ROWS];
};

// `chunks`: dimensions / 64, rounded up. `stages`: as many as the shared memory that it
// was launched with has room for. `STEPS`: of 16 dimensions in a chunk.
template <int STEPS>
__device__ __forceinline__ void sweep(
    const uint8_t* vectors, const Facts* facts, const uint8_t* codes, const float* starts,
    const float2* tiles, const uint32_t* largest, int64_t rows, int len, int dim, int chunks,
    int stages, int parts, Candidate* candidates, uint32_t* counts, float* limits
) {
    if (!usable(*largest)) return;
    extern __shared__ uint8_t unaligned[];
    __shared__ Control control;
    // The swizzle goes by address bits: 1024 bytes.
    uint32_t vectors_here = (shared_address(unaligned) + 1023) & ~1023u;
    uint32_t codes_here = vectors_here + chunks * VECTORS_BYTES;
    uint32_t starts_here = codes_here + stages * CODES_BYTES;
    uint32_t full = shared_address(control.full), empty = shared_address(control.empty);
    uint32_t vectors_full = shared_address(&control.vectors);
    int part = blockIdx.y;
    int64_t block = blockIdx.x;
    int all = (len + TILE - 1) / TILE;
    int first = (int)((int64_t)all * part / parts), last = (int)((int64_t)all * (part + 1) / parts);

    if (threadIdx.x == 0) {
        for (int i = 0; i < stages; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, CONSUMERS);
        }
        barrier_init(vectors_full, 1);
        // The copy engine has to see the barriers.
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    if (threadIdx.x < ROWS) control.count[threadIdx.x] = 0;
    __syncthreads();

    int group = threadIdx.x / 128;
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x != 0) return;
        uint32_t bytes = chunks * VECTORS_BYTES;
        barrier_expect(vectors_full, bytes);
        for (uint32_t at = 0; at < bytes; at += VECTORS_BYTES)
            bulk_copy(vectors_here + at, vectors + block * bytes + at, VECTORS_BYTES, vectors_full);
        int stage = 0;
        uint32_t parity = 1; // the first wait is for nothing
        for (int tile = first; tile < last; tile++) {
            const uint8_t* from = codes + (int64_t)tile * chunks * CODES_BYTES;
            for (int chunk = 0; chunk < chunks; chunk++) {
                barrier_wait(empty + 8 * stage, parity);
                uint32_t ready = full + 8 * stage;
                barrier_expect(ready, CODES_BYTES + (chunk == 0 ? STARTS_BYTES : 0));
                bulk_copy(
                    codes_here + stage * CODES_BYTES, from + chunk * CODES_BYTES, CODES_BYTES,
                    ready
                );
                if (chunk == 0)
                    bulk_copy(
                        starts_here + tile % START_BUFFERS * STARTS_BYTES,
                        starts + (int64_t)tile * TILE, STARTS_BYTES, ready
                    );
                if (++stage == stages) {
                    stage = 0;
                    parity ^= 1;
                }
            }
        }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    int thread = threadIdx.x % 128;
    int lane_column = thread % 4 * 2;
    int row_here = (group - 1) * 64 + thread / 32 * 16 + thread % 32 / 4;
    uint32_t own_vectors = vectors_here + (group - 1) * 64 * CHUNK * 2;
    Bound bound(dim, (dim + 32) * 4.0f * UNIT);
    float codes_inverse = 1.0f / scale_for(*largest);
    Facts of[2];
    float limit[2], inverse[2];
    int64_t row[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        row[r] = block * ROWS + row_here + 8 * r;
        of[r] = row[r] < rows ? facts[row[r]] : Facts{0.0f, 0.0f, 0.0f, 0.0f};
        inverse[r] = of[r].inverse * codes_inverse;
        limit[r] = -INFINITY;
    }
    float sums[TILE / 2];
    // With a tile's chunks all on their way, one warpgroup multiplies a whole tile while the
    // other looks at its scores.
    bool turns = chunks > 1 && chunks <= stages, wait = group != 1;
    barrier_wait(vectors_full, 0);
    int stage = 0, before = -1;
    uint32_t parity = 0;
    for (int tile = first; tile < last; tile++) {
        float2 norms = __ldg(&tiles[tile]);
        if (turns) {
            if (wait) turn_take(group);
            wait = true;
        }
        for (int chunk = 0; chunk < chunks; chunk++) {
            barrier_wait(full + 8 * stage, parity);
            pin(sums);
            products_begin();
            uint32_t a = own_vectors + chunk * VECTORS_BYTES;
            uint32_t b = codes_here + stage * CODES_BYTES;
#pragma unroll
            for (int k = 0; k < STEPS; k++)
                multiply_64x256x16(sums, operand(a + k * 32), operand(b + k * 32), chunk + k);
            products_commit();
            // The products of the chunk before are done: its place can be filled.
            products_wait<1>();
            if (before >= 0 && thread == 0) barrier_arrive(empty + 8 * before);
            before = stage;
            if (++stage == stages) {
                stage = 0;
                parity ^= 1;
            }
        }
        // The second warpgroup's last turn is followed by none.
        if (turns && !(group == 2 && tile == last - 1)) turn_give(3 - group);
        products_wait<0>();
        if (thread == 0) barrier_arrive(empty + 8 * before);
        before = -1;
        pin(sums);

        uint32_t start = starts_here + tile % START_BUFFERS * STARTS_BYTES + lane_column * 4;
        float best[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int i = 0; i < TILE / 8; i++) {
            float2 s = load_shared(start + i * 32);
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float& low = sums[4 * i + 2 * r];
                float& high = sums[4 * i + 2 * r + 1];
                low = fmaf(low, inverse[r], s.x);
                high = fmaf(high, inverse[r], s.y);
                best[r] = fmaxf(best[r], fmaxf(low, high));
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float error = bound.of(of[r], norms.x, norms.y);
            float own = best[r];
            // The four threads of a row are neighbours.
            best[r] = fmaxf(best[r], __shfl_xor_sync(~0u, best[r], 1));
            best[r] = fmaxf(best[r], __shfl_xor_sync(~0u, best[r], 2));
            limit[r] = fmaxf(limit[r], best[r] - error);
            if (own + error >= limit[r] && row[r] < rows) {
                Candidate* list = candidates + (row[r] * parts + part) * CANDIDATES;
                uint32_t* count = &control.count[row_here + 8 * r];
                uint32_t base = tile * TILE + lane_column;
                float least = limit[r] - error;
                // First which, without a branch for each: some row of a block gets here in
                // nearly every tile, and all wait for it.
                uint32_t low = 0, high = 0;
#pragma unroll
                for (int i = 0; i < TILE / 8; i++) {
                    if (sums[4 * i + 2 * r] >= least) low |= 1u << i;
                    if (sums[4 * i + 2 * r + 1] >= least) high |= 1u << i;
                }
                // None has a higher score than the best of them.
                for (; low; low &= low - 1)
                    keep(count, list, base + 8 * (__ffs(low) - 1), own + error);
                for (; high; high &= high - 1)
                    keep(count, list, base + 8 * (__ffs(high) - 1) + 1, own + error);
            }
        }
    }
    // The counts of a warp's rows are its own.
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (thread % 4 == 0 && row[r] < rows) {
            counts[row[r] * parts + part] = control.count[row_here + 8 * r];
            limits[row[r] * parts + part] = limit[r];
        }
    }
}

#define SWEEP(STEPS)                                                                            \
    extern "C" __global__ void __launch_bounds__(128 * (CONSUMERS + 1), 1) sweep_tensor_##STEPS(\
        const uint8_t* vectors, const Facts* facts, const uint8_t* codes, const float* starts,  \
        const float2* tiles, const uint32_t* largest, int64_t rows, int len, int dim,           \
        int chunks, int stages, int parts, Candidate* candidates, uint32_t* counts,             \
        float* limits                                                                           \
    ) {                                                                                         \
        sweep<STEPS>(                                                                           \
            vectors, facts, codes, starts, tiles, largest, rows, len, dim, chunks, stages,      \
            parts, candidates, counts, limits                                                   \
        );                                                                                      \
    }

SWEEP(1)
SWEEP(4)
