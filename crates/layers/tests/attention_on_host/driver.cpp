// The kernels of attention in training, against plain formulas. Says which cases are off, and how
// many there were. With an argument, threads take turns backwards.
#include FILE_ATTENTION

#include "cases.h"

ATTENTION_KERNELS_OF(float, f32)
ATTENTION_KERNELS_OF(__half, f16)

struct Case {
    unsigned len, dim, heads, shared, unmasked;
};
constexpr unsigned BATCH = 2;

// What is read, and the gradients to queries, keys and values.
struct Plain {
    Exact read, dq, dk, dv;

    Plain(const Case &c, const Numbers &q, const Numbers &k, const Numbers &v, const Numbers &dy)
        : read(q.size()), dq(q.size()), dk(k.size()), dv(v.size()) {
        const double scale = 1.0 / std::sqrt(c.dim);
        for (unsigned b = 0; b < BATCH; ++b)
            for (unsigned h = 0; h < c.heads; ++h)
                for (unsigned t = 0; t < c.len; ++t) {
                    const size_t own = ((size_t)b * c.len + t) * c.heads * c.dim + h * c.dim;
                    auto key = [&](unsigned s) {
                        const unsigned of = h / (c.heads / c.shared);
                        return ((size_t)b * c.len + s) * c.shared * c.dim + of * c.dim;
                    };
                    const unsigned seen = t < c.unmasked ? min(c.unmasked, c.len) : t + 1;
                    Exact weights(seen), gradients(seen);
                    double largest = -INFINITY, total = 0.0, passed = 0.0;
                    for (unsigned s = 0; s < seen; ++s) {
                        for (unsigned i = 0; i < c.dim; ++i)
                            weights[s] += scale * q[own + i] * k[key(s) + i];
                        largest = max(largest, weights[s]);
                    }
                    for (double &weight : weights) total += weight = std::exp(weight - largest);
                    for (unsigned s = 0; s < seen; ++s) {
                        weights[s] /= total;
                        for (unsigned i = 0; i < c.dim; ++i) {
                            read[own + i] += weights[s] * v[key(s) + i];
                            dv[key(s) + i] += weights[s] * dy[own + i];
                            gradients[s] += static_cast<double>(dy[own + i]) * v[key(s) + i];
                        }
                        passed += weights[s] * gradients[s];
                    }
                    for (unsigned s = 0; s < seen; ++s) {
                        const double score = weights[s] * (gradients[s] - passed) * scale;
                        for (unsigned i = 0; i < c.dim; ++i) {
                            dq[own + i] += score * k[key(s) + i];
                            dk[key(s) + i] += score * q[own + i];
                        }
                    }
                }
    }
};

// Kernels of one kind of numbers and one width.
#define RUN(SUFFIX, DIM)                                                                      \
    launch({tiles * BATCH * c.heads, 1}, 128, [&] {                                           \
        attend_##SUFFIX##_##DIM(q.data(), k.data(), v.data(), sizes, factor, read.data());    \
    }, Forward<DIM>::FLOATS * sizeof(float));                                                 \
    launch({tiles * BATCH * c.heads, 1}, 128, [&] {                                           \
        attend_stats_##SUFFIX##_##DIM(q.data(), k.data(), v.data(), dy.data(), sizes, factor, \
                                      stats.data());                                          \
    }, Forward<DIM>::FLOATS * sizeof(float));                                                 \
    launch({tiles * BATCH * c.shared, 1}, 128, [&] {                                          \
        attend_back_keys_##SUFFIX##_##DIM(q.data(), k.data(), v.data(), dy.data(),            \
                                          stats.data(), sizes, factor, scale, dk.data(),      \
                                          dv.data());                                         \
    }, BackKeys<DIM>::FLOATS * sizeof(float));                                                \
    launch({tiles * BATCH * c.heads, 1}, 128, [&] {                                           \
        attend_back_queries_##SUFFIX##_##DIM(q.data(), k.data(), v.data(), dy.data(),         \
                                             stats.data(), sizes, factor, scale, dq.data());  \
    }, BackQueries<DIM>::FLOATS * sizeof(float))

template <typename T> static void attend_all(const Case &c) {
    const size_t count = (size_t)BATCH * c.len * c.heads * c.dim;
    const size_t key_count = (size_t)BATCH * c.len * c.shared * c.dim;
    const std::vector<T> q = rounded<T>(noise(count, 2.0f)), k = rounded<T>(noise(key_count, 2.0f));
    const std::vector<T> v = rounded<T>(noise(key_count)), dy = rounded<T>(noise(count));
    const Plain plain(c, widened(q), widened(k), widened(v), widened(dy));
    std::vector<T> read(count), dq(count), dk(key_count), dv(key_count);
    std::vector<float2> stats((size_t)BATCH * c.heads * c.len);
    const Sizes sizes{c.len, c.dim, c.heads, c.shared, c.unmasked, c.dim % 4 == 0};
    const float scale = 1.0f / std::sqrt(static_cast<float>(c.dim));
    const float factor = scale * 1.44269504f;
    const unsigned tiles = (c.len + TILE - 1) / TILE;
    if constexpr (std::is_same_v<T, __half>) {
        RUN(f16, 32);
    } else if (c.dim <= 32) {
        RUN(f32, 32);
    } else if (c.dim <= 64) {
        RUN(f32, 64);
    } else {
        RUN(f32, 128);
    }
    const double share = std::is_same_v<T, __half> ? 6e-4 : 1e-5;
    const std::string of = text("attention of %d, %d wide, %d heads of %d, %d see all", c.len, c.dim,
                                c.heads, c.shared, c.unmasked);
    close(of, widened(read), plain.read, share);
    close(of + ", queries", widened(dq), plain.dq, share);
    close(of + ", keys", widened(dk), plain.dk, share);
    close(of + ", values", widened(dv), plain.dv, share);
}

int main(int count, char **) {
    backwards = count > 1;
    // Around tiles, widths and what is loaded at once.
    for (const Case &c : {Case{2, 4, 1, 1, 0}, Case{63, 20, 2, 2, 0}, Case{64, 32, 2, 1, 5},
                          Case{65, 33, 4, 2, 0}, Case{130, 64, 2, 1, 70}, Case{70, 97, 1, 1, 0},
                          Case{129, 128, 2, 1, 3}, Case{40, 8, 3, 3, 100}})
        attend_all<float>(c);
    attend_all<__half>({67, 24, 2, 1, 9});
    attend_all<__half>({65, 27, 1, 1, 0});
    std::printf("digest %016llx\n", static_cast<unsigned long long>(digest));
    std::printf("%d cases, %d off\n", cases, failures);
    return failures == 0 ? 0 : 1;
}
