// Runs a kernel of `foreach.cu` on what standard input says (all little-endian, u64 unless
// said otherwise): the kernel's number below, how many rows; seven f32; and for each row its
// length, by how many elements its tensors begin late, its own f32, and its tensors. Writes
// the tensors that the kernel has written.
#include FOREACH
#include <cstdio>
#include <cstdlib>

// Bytes of an element of each tensor of a row, and how many of them are written.
struct Kind {
    std::vector<size_t> sizes;
    size_t written;
};
static const Kind KINDS[] = {
    {{4, 4, 4, 4}, 3}, // adam
    {{4, 4}, 1},       // follow
    {{4}, 0},          // norm
    {{4, 4}, 1},       // convert: f32 from f32
    {{2, 4}, 1},       // f16 from f32
    {{2, 4}, 1},       // bf16 from f32
    {{4, 2}, 1},       // f32 from f16
    {{4, 2}, 1},       // f32 from bf16
    {{8, 4}, 1},       // f64 from f32
    {{8, 8}, 1},       // f64 from f64
    {{8, 4}, 1},       // f64 from u32
    {{4, 4, 4, 4}, 3}, // adam, its scale behind a pointer
    {{8}, 0},          // gate: of one row
};

static void take(void *to, size_t bytes) {
    if (fread(to, 1, bytes, stdin) != bytes) std::exit(1);
}
template <typename T> static T take() {
    T value;
    take(&value, sizeof(T));
    return value;
}

int main() {
    const auto number = take<uint64_t>(), count = take<uint64_t>();
    const Kind &kind = KINDS[number];
    float s[7];
    take(s, sizeof(s));
    std::vector<Row> rows(count);
    std::vector<uint64_t> lens;
    uint64_t blocks = 0;
    for (Row &row : rows) {
        row.block = blocks;
        row.len = take<uint64_t>();
        const auto late = take<uint64_t>();
        row.own = take<float>();
        blocks += (row.len + PART - 1) / PART;
        for (size_t i = 0; i < kind.sizes.size(); ++i) {
            const size_t size = kind.sizes[i], bytes = row.len * size;
            // Begins as allocations of a GPU do; not freed.
            const size_t room = (bytes + late * size + 256) / 256 * 256;
            char *data = static_cast<char *>(std::aligned_alloc(256, room));
            row.address[i] = reinterpret_cast<uint64_t>(data + late * size);
            take(data + late * size, bytes);
        }
    }
    if (number == 12) {
        // Terms, the norm's place, the limit, and with a fourth number other than 0 a gate
        // before, the fifth.
        float scale;
        const auto *values = reinterpret_cast<const double *>(rows[0].address[0]);
        launch(1, [&] {
            gate(values, (uint64_t)s[0], rows[0].len, (uint64_t)s[1], s[2],
                 s[3] != 0 ? s + 4 : nullptr, &scale);
        });
        fwrite(&scale, sizeof(scale), 1, stdout);
        return 0;
    }
    const Row *table = rows.data();
    const auto n = static_cast<uint32_t>(count);
    std::vector<double> sums(blocks);
    double root;
    launch(static_cast<unsigned>(blocks), [&, table, n, number] {
        switch (number) {
        case 0: return adam(table, n, s[0], s[1], s[2], s[3], s[4], s[5], s[6], nullptr);
        case 1: return follow(table, n, s[0]);
        case 2: return squares(table, n, sums.data());
        case 3: return convert_f32_f32(table, n);
        case 4: return convert_f32_f16(table, n);
        case 5: return convert_f32_bf16(table, n);
        case 6: return convert_f16_f32(table, n);
        case 7: return convert_bf16_f32(table, n);
        case 8: return convert_f32_f64(table, n);
        case 9: return convert_f64_f64(table, n);
        case 10: return convert_u32_f64(table, n);
        case 11: return adam(table, n, -1.0f, s[1], s[2], s[3], s[4], s[5], s[6], s);
        }
    });
    if (number == 2) {
        launch(1, [&] { root_of_sums(sums.data(), sums.size(), &root); });
        fwrite(&root, sizeof(root), 1, stdout);
    }
    for (const Row &row : rows)
        for (size_t i = 0; i < kind.written; ++i)
            fwrite(reinterpret_cast<char *>(row.address[i]), kind.sizes[i], row.len, stdout);
}
