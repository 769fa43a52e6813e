//! Decoding pictures under limits; datasets with a deterministic order
