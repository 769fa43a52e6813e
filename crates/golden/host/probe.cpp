// Whether a compiler will do: threads of a block hand numbers on.
#include "contexts.h"

int main() {
    std::vector<unsigned> numbers(64);
    for (int turn = 0; turn < 3; ++turn)
        launch({2, 1}, 64, [&] {
            __shared__ unsigned shared[64];
            const unsigned own = threadIdx.x + __shfl_xor_sync(~0u, threadIdx.x, 1);
            shared[threadIdx.x] = own;
            __syncthreads();
            numbers[threadIdx.x] = shared[63 - threadIdx.x];
        });
    return numbers[0] == 125 && numbers[63] == 1 ? 0 : 1;
}
