// The kernels that transformers need besides products, attention and norms, against plain formulas.
// Says which cases are off, and how many there were. With an argument, threads take turns backwards.
#include FILE_SEQUENCE

#include "cases.h"

using Tokens = std::vector<uint32_t>;

static Tokens tokens(unsigned count, unsigned kinds) {
    Tokens drawn(count);
    for (uint32_t &token : drawn) token = static_cast<uint32_t>(uniform() * kinds);
    return drawn;
}

// Weights of `count` scores from the first on, times `scale`; 0 behind.
static Exact soft_max(const float *scores, unsigned len, unsigned count, double scale) {
    Exact weights(len);
    double largest = -INFINITY, total = 0.0;
    for (unsigned i = 0; i < count; ++i) largest = max(largest, scores[i] * scale);
    for (unsigned i = 0; i < count; ++i)
        total += weights[i] = std::exp(scores[i] * scale - largest);
    for (double &weight : weights) weight /= total;
    return weights;
}

static void weights(unsigned heads, unsigned len, unsigned unmasked) {
    const unsigned rows = heads * len;
    const float scale = 0.3f;
    const Numbers scores = noise(static_cast<size_t>(rows) * len, 9.0f), dy = noise(scores.size());
    Exact expected, back;
    for (unsigned row = 0; row < rows; ++row) {
        const unsigned query = row % len;
        const unsigned seen = query < unmasked ? min(unmasked, len) : query + 1;
        const float *gradients = &dy[static_cast<size_t>(row) * len];
        const Exact own = soft_max(&scores[static_cast<size_t>(row) * len], len, seen, scale);
        double mean = 0.0;
        for (unsigned i = 0; i < len; ++i) mean += own[i] * gradients[i];
        for (unsigned i = 0; i < len; ++i) back.push_back(own[i] * (gradients[i] - mean) * scale);
        expected.insert(expected.end(), own.begin(), own.end());
    }
    Numbers made(scores.size()), made_back(scores.size());
    launch({rows, 1}, 64, [&] {
        attention_weights_f32(scores.data(), len, unmasked, scale, made.data());
    });
    launch({rows, 1}, 64, [&] {
        attention_weights_back_f32(made.data(), dy.data(), len, scale, made_back.data());
    });
    const std::string of = text("weights of %d heads, %d positions, %d see all", heads, len, unmasked);
    close(of, made, expected, 1e-6);
    close(of + ", back", made_back, back, 1e-5);
}

static void surprises(unsigned rows, unsigned classes) {
    const float share = 0.25f;
    const Numbers logits = noise(static_cast<size_t>(rows) * classes, 9.0f);
    const Tokens targets = tokens(rows, classes);
    Exact expected, back;
    for (unsigned row = 0; row < rows; ++row) {
        const Exact own = soft_max(&logits[static_cast<size_t>(row) * classes], classes, classes, 1.0);
        expected.push_back(-std::log(own[targets[row]]));
        for (unsigned i = 0; i < classes; ++i)
            back.push_back(share * (own[i] - (i == targets[row] ? 1.0 : 0.0)));
    }
    Numbers nll(rows), alone(rows), made_back(logits.size());
    launch({rows, 1}, 64, [&] {
        surprise_f32(logits.data(), targets.data(), classes, share, nll.data(), made_back.data());
    });
    launch({rows, 1}, 64, [&] {
        surprise_f32(logits.data(), targets.data(), classes, share, alone.data(), nullptr);
    });
    const std::string of = text("surprise of %d rows of %d classes", rows, classes);
    close(of, nll, expected, 1e-5);
    close(of + ", alone", alone, expected, 1e-5);
    close(of + ", back", made_back, back, 1e-5);
}

static void rotations(unsigned rows, unsigned positions, unsigned heads, unsigned half) {
    const unsigned pairs = heads * half;
    const Numbers x = noise(static_cast<size_t>(rows) * pairs * 2);
    const Numbers cosine = noise(positions * half), sine = noise(positions * half);
    for (const float sign : {1.0f, -1.0f}) {
        Exact expected(x.size());
        for (unsigned row = 0; row < rows; ++row)
            for (unsigned pair = 0; pair < pairs; ++pair) {
                const size_t at = (static_cast<size_t>(row) * pairs + pair) * 2;
                const unsigned angle = row % positions * half + pair % half;
                const double c = cosine[angle], s = sign * sine[angle];
                expected[at] = x[at] * c - x[at + 1] * s;
                expected[at + 1] = x[at + 1] * c + x[at] * s;
            }
        Numbers made(x.size());
        launch({rows, (pairs + 63) / 64}, 64, [&] {
            rotate_f32(x.data(), cosine.data(), sine.data(), positions, half, pairs, sign,
                       made.data());
        });
        close(text("%d rows turned by %g", rows, sign), made, expected, 1e-6);
    }
}

// More tokens than a block has threads, and rows wider than it takes at a time.
static void embeddings(unsigned count, unsigned kinds, unsigned width) {
    const Numbers table = noise(static_cast<size_t>(kinds) * width);
    const Numbers dy = noise(static_cast<size_t>(count) * width);
    const Tokens own = tokens(count, kinds);
    Exact expected, back(table.size());
    for (unsigned i = 0; i < count; ++i)
        for (unsigned j = 0; j < width; ++j) {
            expected.push_back(table[static_cast<size_t>(own[i]) * width + j]);
            back[static_cast<size_t>(own[i]) * width + j] += dy[static_cast<size_t>(i) * width + j];
        }
    Numbers made(dy.size()), made_back(table.size());
    launch({count, 1}, 64, [&] {
        embed_f32(table.data(), own.data(), kinds, width, made.data());
    });
    launch({kinds, 1}, 64, [&] {
        embed_back_f32(dy.data(), own.data(), count, width, made_back.data());
    });
    const std::string of = text("%d tokens of %d, %d wide", count, kinds, width);
    close(of, made, expected, 0.0);
    close(of + ", back", made_back, back, 1e-5);
}

int main(int count, char **) {
    backwards = count > 1;
    weights(1, 1, 0);
    weights(2, 37, 0);
    weights(3, 150, 20);
    weights(1, 70, 100);
    surprises(4, 2);
    surprises(5, 64);
    surprises(3, 1000);
    rotations(7, 3, 2, 5);
    rotations(4, 4, 3, 32);
    embeddings(3, 2, 5);
    embeddings(200, 7, 64);
    embeddings(130, 5, 300);
    std::printf("digest %016llx\n", static_cast<unsigned long long>(digest));
    std::printf("%d cases, %d off\n", cases, failures);
    return failures == 0 ? 0 : 1;
}
