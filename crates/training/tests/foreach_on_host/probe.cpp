// Whether a compiler will do: threads of a block hand numbers on.
#include "cuda_on_host.h"

int main() {
    std::vector<unsigned> numbers(BLOCK);
    launch(2, [&] { numbers[threadIdx.x] = __shfl_xor_sync(~0u, threadIdx.x, 1); });
    return numbers[0] == 1 && numbers[BLOCK - 1] == BLOCK - 2 ? 0 : 1;
}
