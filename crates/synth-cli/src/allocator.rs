//! The allocator of this binary, and that it keeps what is freed.

/// Keeps freed memory for the next feature map of its size: with the system's
/// allocator every large one is made of new pages, and touching those costs more
/// than many layers compute.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2 and 3, which the crate does not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// How users set it themselves.
const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

/// Freed pages stay with the process: mimalloc hands them back to the system after a while,
/// and a sixth of the time of encoding and decoding a picture went into getting them again.
pub fn keep_freed_pages() {
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: sets a number that the allocator reads when it frees; no other thread runs
        // yet.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_that_the_variable_sets() {
        // Set for all that cargo runs, by .cargo/config.toml.
        let value =
            std::env::var(VARIABLE).ok().and_then(|value| value.parse::<std::ffi::c_long>().ok());
        let Some(value) = value else {
            return eprintln!("skipped: {VARIABLE} is not set");
        };
        // SAFETY: reads a number.
        assert_eq!(unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) }, value);
    }
}
