//! How many threads compute.

/// Limits rayon and candle to `threads`. Must be called before anything else:
/// both read `RAYON_NUM_THREADS` when they start their pools.
#[expect(unsafe_code, reason = "candle takes its thread count from the environment alone")]
pub fn limit(threads: Option<u16>) {
    if let Some(threads) = threads {
        // SAFETY: called at the start of `main`, when this is the only thread,
        // so nobody reads the environment meanwhile.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
    }
}
