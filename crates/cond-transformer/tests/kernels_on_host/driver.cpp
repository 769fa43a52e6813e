// The kernels that draw codes on a GPU, against plain formulas. Says which cases are off, and
// how many there were. With an argument, threads take turns backwards.
#include "cuda_on_host.h"
// Before what includes it in a namespace of its own.
#include FILE_COMMON
namespace few {
#include FILE_LINEAR
}
namespace more {
#include FILE_PRODUCTS
}
namespace attention {
#include FILE_ATTENTION
}
namespace choice {
#include FILE_CHOOSE
}

#include "cases.h"

static Exact norms(const Numbers &x, int rows, int width, int kind, const float *weight,
                   const float *bias, double eps) {
    Exact y(x.begin(), x.end());
    for (int r = 0; kind != 0 && r < rows; ++r) {
        double mean = 0.0, squares = 0.0;
        for (int i = 0; i < width && kind == 1; ++i) mean += y[r * width + i] / width;
        for (int i = 0; i < width; ++i) squares += std::pow(y[r * width + i] - mean, 2);
        for (int i = 0; i < width; ++i) {
            double &own = y[r * width + i];
            own = (own - mean) / std::sqrt(squares / width + eps) * weight[i];
            if (bias != nullptr) own += bias[i];
        }
    }
    return y;
}

// What becomes of `sum`, by the numbers of `Then`; `other` is the second matrix's.
static double then(int what, double sum, double other, double before) {
    switch (what) {
    case GELU: return 0.5 * sum * (1.0 + std::erf(sum / std::sqrt(2.0)));
    case ADD: return sum + before;
    case GATE: return sum / (1.0 + std::exp(-sum)) * other;
    default: return sum;
    }
}

// A layer of up to three matrices, and what it makes of rows.
struct Layer {
    int in, out, kinds, what;
    Numbers weights[3], biases[3];

    Exact of(const Exact &x, int rows, const Numbers &before) const {
        Exact y(static_cast<size_t>(rows) * kinds * out);
        auto sum = [&](int r, int m, int o, bool biased) {
            double total = biased ? biases[m][o] : 0.0;
            for (int i = 0; i < in; ++i) total += x[r * in + i] * weights[m][o * in + i];
            return total;
        };
        for (int r = 0; r < rows; ++r)
            for (int m = 0; m < kinds; ++m)
                for (int o = 0; o < out; ++o) {
                    const size_t place = (static_cast<size_t>(r) * kinds + m) * out + o;
                    const double other = what == GATE ? sum(r, 1, o, false) : 0.0;
                    y[place] = then(what, sum(r, m, o, what != GATE), other, before[place]);
                }
        return y;
    }
};

static Layer layer(int in, int out, int what) {
    Layer made{in, out, what == KEEP ? 3 : 1, what, {}, {}};
    for (int m = 0; m < 3; ++m) {
        made.weights[m] = noise(static_cast<size_t>(in) * out);
        made.biases[m] = noise(out);
    }
    return made;
}

static void linear(int rows, int kind, int what, int in) {
    const Layer l = layer(in, 23, what);
    const Numbers x = noise(static_cast<size_t>(rows) * in), weight = noise(in), b = noise(in);
    const float *bias = kind == 2 ? nullptr : b.data();
    Numbers y = noise(static_cast<size_t>(rows) * l.kinds * l.out);
    const Exact expected = l.of(norms(x, rows, in, kind, weight.data(), bias, 1e-5), rows, y);
    auto run = [&](auto kernel) {
        const float *first = what == GATE ? nullptr : l.biases[0].data();
        launch({(l.out + 3u) / 4, static_cast<unsigned>(l.kinds)}, 128, [&] {
            kernel(x.data(), rows, in, l.out, kind, weight.data(), bias, 1e-5f,
                   l.weights[0].data(), l.weights[1].data(), l.weights[2].data(), first,
                   l.biases[1].data(), l.biases[2].data(), y.data());
        });
    };
#define KERNEL(ROWS)                                                                          \
    what == KEEP   ? run(few::linear_keep_##ROWS##_f32)                                       \
    : what == GELU ? run(few::linear_gelu_##ROWS##_f32)                                       \
    : what == ADD  ? run(few::linear_add_##ROWS##_f32)                                        \
                   : run(few::linear_gate_##ROWS##_f32)
    if (rows == 1) KERNEL(1);
    else if (rows == 2) KERNEL(2);
    else if (rows <= 4) KERNEL(4);
    else KERNEL(8);
#undef KERNEL
    close(text("linear: %d rows of %d, norm %d, then %d", rows, in, kind, what), y, expected, 3e-6);
}

template <typename T> static void product(int rows, int what, int in) {
    Layer l = layer(in, 23, what);
    std::vector<T> weights[3], biases[3];
    for (int m = 0; m < 3; ++m) {
        weights[m] = rounded<T>(l.weights[m]), biases[m] = rounded<T>(l.biases[m]);
        l.weights[m] = widened(weights[m]), l.biases[m] = widened(biases[m]);
    }
    const std::vector<T> x = rounded<T>(noise(static_cast<size_t>(rows) * in));
    const Numbers exact = widened(x);
    Numbers y = noise(static_cast<size_t>(rows) * l.kinds * l.out);
    const Exact expected = l.of(Exact(exact.begin(), exact.end()), rows, y);
    const bool half = what == GELU || what == GATE;
    std::vector<T> halves(y.size());
    void *to = half ? static_cast<void *>(halves.data()) : y.data();
    const int group = rows <= 8 ? 8 : rows <= 16 ? 16 : 32;
    const unsigned blocks = (l.out + 15) / 16 * ((rows + group - 1) / group);
    auto run = [&](auto kernel) {
        const T *first = what == GATE ? nullptr : biases[0].data();
        launch({blocks, static_cast<unsigned>(l.kinds)}, 256, [&] {
            kernel(x.data(), rows, in, l.out, weights[0].data(), weights[1].data(),
                   weights[2].data(), first, biases[1].data(), biases[2].data(), to);
        });
    };
#define KERNEL(ROWS)                                                                          \
    if constexpr (sizeof(T) == sizeof(__half) && std::is_same_v<T, __half>) {                 \
        what == KEEP   ? run(more::product_keep_##ROWS##_f16)                                 \
        : what == GELU ? run(more::product_gelu_##ROWS##_f16)                                 \
        : what == ADD  ? run(more::product_add_##ROWS##_f16)                                  \
                       : run(more::product_gate_##ROWS##_f16);                                \
    } else {                                                                                  \
        what == KEEP   ? run(more::product_keep_##ROWS##_bf16)                                \
        : what == GELU ? run(more::product_gelu_##ROWS##_bf16)                                \
        : what == ADD  ? run(more::product_add_##ROWS##_bf16)                                 \
                       : run(more::product_gate_##ROWS##_bf16);                               \
    }
    if (group == 8) {
        KERNEL(8)
    } else if (group == 16) {
        KERNEL(16)
    } else {
        KERNEL(32)
    }
#undef KERNEL
    const double share = !half ? 3e-6 : std::is_same_v<T, __half> ? 6e-4 : 4e-3;
    close(text("product: %d rows of %d, then %d", rows, in, what), half ? widened(halves) : y,
          expected, share);
}

static void norm_and_activation(int width) {
    const int rows = 3;
    const size_t count = static_cast<size_t>(rows) * width;
    Numbers x = noise(count), made = noise(count), bias = noise(width), to(count);
    const Numbers weight = noise(width), shift = noise(width);
    Exact sum(x.begin(), x.end());
    for (size_t i = 0; i < count; ++i) sum[i] += static_cast<double>(made[i]) + bias[i % width];
    launch({rows, 1}, 128, [&] {
        few::add_and_norm_f32(x.data(), width, made.data(), bias.data(), 1, weight.data(),
                              shift.data(), 1e-5f, to.data());
    });
    close(text("sum of %d", width), x, sum, 1e-6);
    close(text("norm of %d", width), to, norms(x, rows, width, 1, weight.data(), shift.data(), 1e-5),
          1e-5);
    Exact expected(count);
    for (const bool gated : {false, true}) {
        for (size_t i = 0; i < count; ++i)
            expected[i] = gated ? then(GATE, made[i], x[i], 0.0)
                                : then(GELU, static_cast<double>(made[i]) + bias[i % width], 0, 0);
        launch({static_cast<unsigned>((count + 127) / 128), 1}, 128, [&] {
            few::activate_f32(made.data(), gated ? nullptr : bias.data(),
                              gated ? x.data() : nullptr, width, static_cast<int64_t>(count),
                              to.data());
        });
        close(text("activation of %d", width), to, expected, 1e-6);
    }
}

// `past` positions, of which some of the first may be hidden; queries may share keys.
static void attend(int past, int heads, int shared, int dim, bool biased, bool turned,
                   bool hides) {
    const int room = past + 3, rows = 2, front = hides ? 3 : 0, all = heads + 2 * shared;
    const Numbers inputs = noise(static_cast<size_t>(rows) * all * dim, 2.0f);
    const Numbers biases[3] = {noise(heads * dim), noise(shared * dim), noise(shared * dim)};
    Numbers keys = noise(static_cast<size_t>(rows) * shared * room * dim, 2.0f);
    Numbers values = noise(keys.size()), read(static_cast<size_t>(rows) * heads * dim);
    const Numbers cosine = noise((past + 1) * dim / 2), sine = noise((past + 1) * dim / 2);
    const std::vector<uint8_t> hidden = {0, 1, 0, 1, 0, 0};
    Exact expected(read.size()), all_keys(keys.begin(), keys.end());
    Exact all_values(values.begin(), values.end());
    for (int r = 0; r < rows; ++r)
        for (int h = 0; h < heads; ++h) {
            const int of = h / (heads / shared);
            auto vector = [&](int which, int head, const Numbers &bias) {
                Exact v(dim);
                for (int i = 0; i < dim; ++i) {
                    v[i] = inputs[(static_cast<size_t>(r) * all + which + head) * dim + i];
                    if (biased) v[i] += bias[head * dim + i];
                }
                return v;
            };
            Exact q = vector(0, h, biases[0]), k = vector(heads, of, biases[1]);
            const Exact v = vector(heads + shared, of, biases[2]);
            for (Exact *turn : {&q, &k})
                for (int i = 0; turned && i < dim; i += 2) {
                    const double a = (*turn)[i], b = (*turn)[i + 1];
                    const int place = past * dim / 2 + i / 2;
                    (*turn)[i] = a * cosine[place] - b * sine[place];
                    (*turn)[i + 1] = b * cosine[place] + a * sine[place];
                }
            const size_t start = (static_cast<size_t>(r) * shared + of) * room * dim;
            std::copy(k.begin(), k.end(), all_keys.begin() + start + past * dim);
            std::copy(v.begin(), v.end(), all_values.begin() + start + past * dim);
            Exact scores(past + 1, -INFINITY);
            double largest = -INFINITY, total = 0.0;
            for (int at = 0; at <= past; ++at) {
                if (at < front && at != past && hidden[r * front + at]) continue;
                scores[at] = 0.0;
                for (int i = 0; i < dim; ++i)
                    scores[at] += q[i] * all_keys[start + at * dim + i] / std::sqrt(double(dim));
                largest = std::max(largest, scores[at]);
            }
            for (double &score : scores) total += score = std::exp(score - largest);
            for (int at = 0; at <= past; ++at)
                for (int i = 0; i < dim; ++i)
                    expected[(r * heads + h) * dim + i] +=
                        scores[at] / total * all_values[start + at * dim + i];
        }
    auto given = [](bool there, const auto &numbers) { return there ? numbers.data() : nullptr; };
    launch({static_cast<unsigned>(heads), rows}, 256, [&] {
        attention::attend_few_f32(inputs.data(), given(biased, biases[0]), given(biased, biases[1]),
                                  given(biased, biases[2]), given(turned, cosine),
                                  given(turned, sine), given(hides, hidden), front, &past, shared,
                                  dim, room, keys.data(), values.data(), read.data());
    }, (3 * dim + 4 * 256 + room) * sizeof(float)); // `attention_bytes` of `pass.rs`
    const std::string what = text("attention after %d, heads of %d", past, dim);
    close(what, read, expected, 1e-5);
    close(what + ", keys", keys, all_keys, 1e-6);
    close(what + ", values", values, all_values, 1e-6);
}

// How codes are drawn.
struct Draw {
    int vocabulary, top_k;
    float temperature, top_p;
    bool guided, greedy, ties, forbids, given;
};

// The code of a row, whose logits are left as they should be.
static uint32_t drawn(Numbers &row, const Draw &d, double uniform) {
    if (d.greedy)
        return static_cast<uint32_t>(std::max_element(row.begin(), row.end()) - row.begin());
    std::vector<int> order;
    for (int i = 0; i < d.vocabulary; ++i) {
        if (d.temperature != 1.0f) row[i] /= d.temperature;
        order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return row[a] > row[b]; });
    if (d.top_k > 0 && d.top_k < d.vocabulary) {
        const float least = row[order[d.top_k - 1]];
        for (float &x : row)
            if (x < least) x = -INFINITY;
    }
    const float largest = row[order[0]];
    if (d.top_p < 1.0f) {
        double total = 0.0, sum = 0.0;
        for (float x : row) total += x == -INFINITY ? 0.0f : expf(x - largest);
        for (int i : order) {
            if ((float)sum > d.top_p) row[i] = -INFINITY;
            else if (row[i] > -INFINITY) sum += expf(row[i] - largest) / (float)total;
        }
    }
    double total = 0.0;
    for (float x : row) total += x == -INFINITY ? 0.0 : std::exp((double)(x - largest));
    double left = uniform * total;
    uint32_t code = 0;
    for (int i = 0; i < d.vocabulary; ++i) {
        const double weight = row[i] == -INFINITY ? 0.0 : std::exp((double)(row[i] - largest));
        if (weight <= 0.0) continue;
        code = i;
        if (left < weight) break;
        left -= weight;
    }
    return code;
}

static void choose(const Draw &d, bool held) {
    const int sequences = 2, length = 5, width = 8, at = 2, past = 9, v = d.vocabulary;
    const choice::Options options{d.guided ? 2.5 : 0.0, d.temperature, d.top_p, d.top_k, d.greedy,
                                  1 << 30, length, v, sequences, width};
    Numbers logits = noise((d.guided ? 2 : 1) * static_cast<size_t>(sequences) * v, 4.0f);
    if (d.ties)
        for (float &x : logits) x = std::round(x * 2.0f) / 2.0f;
    std::vector<uint8_t> forbidden(v);
    for (int i = 0; i < v; i += 3) forbidden[i] = d.forbids;
    std::vector<int> forced(sequences * length, -1);
    if (d.given) forced[length + at] = 7;
    std::vector<double> uniforms(sequences * length);
    for (double &x : uniforms) x = uniform();
    const Numbers before = logits, table = noise(static_cast<size_t>(v) * width);
    const Numbers places = noise(20 * width);
    Numbers probabilities(static_cast<size_t>(sequences) * v), x(2 * sequences * width);
    int position = past, step = at;
    uint32_t ended = 0, codes[sequences * length] = {}, failed[sequences] = {};
    launch({sequences, 1}, 1024, [&] {
        (held ? choice::choose_held_f32 : choice::choose_any_f32)(
            options, logits.data(), probabilities.data(), d.forbids ? forbidden.data() : nullptr,
            forced.data(), uniforms.data(), &position, &step, &ended, codes, failed, table.data(),
            places.data(), x.data());
    });
    bool right = position == past + 1 && step == at + 1 && ended == 0;
    for (int s = 0; s < sequences; ++s) {
        Numbers row(before.begin() + s * v, before.begin() + (s + 1) * v);
        for (int i = 0; i < v; ++i) {
            const float without = d.guided ? before[(s + sequences) * v + i] : 0.0f;
            if (d.guided) row[i] = without + (row[i] - without) * 2.5f;
            if (d.forbids && forbidden[i]) row[i] = -INFINITY;
        }
        uint32_t code = drawn(row, d, uniforms[s * length + at]);
        if (d.given && s == 1) code = 7;
        right = right && codes[s * length + at] == code && failed[s] == 0;
        for (int i = 0; i < width; ++i) {
            const float next = table[code * width + i] + places[(past + 1) * width + i];
            right = right && x[s * width + i] == next
                && (!d.guided || x[(s + sequences) * width + i] == next);
        }
    }
    expect(right, text("choice of %d, top-k %d, top-p %g, guided %d, held %d", v, d.top_k, d.top_p,
                       d.guided, held).c_str());
}

int main(int count, char **) {
    backwards = count > 1;
    for (int rows : {1, 2, 3, 8})
        for (int kind : {0, 1, 2})
            for (int what : {KEEP, GELU, ADD, GATE}) linear(rows, kind, what, 52);
    // More than is asked for at a time.
    for (int what : {KEEP, GATE}) linear(2, 2, what, 1204);
    for (int rows : {1, 8, 9, 16, 17, 70})
        for (int what : {KEEP, GELU, ADD, GATE}) product<__nv_bfloat16>(rows, what, 40);
    for (int in : {8, 264, 1032})
        for (int what : {KEEP, GATE}) product<__half>(20, what, in);
    for (int width : {44, 1044}) norm_and_activation(width);
    for (int past : {0, 1, 31, 129, 300}) {
        attend(past, 3, 3, 20, false, false, false);
        attend(past, 6, 2, 20, false, true, true);
    }
    attend(7, 3, 3, 48, true, false, true);
    for (int n = 0; n < 24; ++n) {
        Draw d{n % 3 == 0 ? 37 : n % 3 == 1 ? 1500 : 3000, n % 4 == 1 ? 0 : 1 + n * 5, 0.7f, 0.6f,
               n % 2 == 1, n % 11 == 10, n % 2 == 1, n % 6 == 2, n == 8};
        if (n % 5 == 0) d.temperature = 1.0f;
        if (n % 4 == 0) d.top_p = 1.0f;
        choose(d, n % 4 < 2);
    }
    std::printf("digest %016llx\n", static_cast<unsigned long long>(digest));
    std::printf("%d cases, %d off\n", cases, failures);
    return failures == 0 ? 0 : 1;
}
