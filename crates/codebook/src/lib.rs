//! Vector quantization: nearest codes, quantizers, codebook losses, usage
