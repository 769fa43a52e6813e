// Attention of many heads of this type: a file of its own, because the driver translates a
// file whole when the first of its kernels is used.
#include "attention.cuh"

ATTENTION_KERNELS_OF(__half, f16)
