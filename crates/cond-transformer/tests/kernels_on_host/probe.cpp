// Whether a compiler will do.
#include "cuda_on_host.h"

int main() { return 0; }
