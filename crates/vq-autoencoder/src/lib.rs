//! The VQGAN: encoder, quantizer and decoder, with its published presets
