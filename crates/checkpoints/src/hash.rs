//! SHA-256 of files and bytes, as lowercase hexadecimal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

const BUFFER_BYTES: usize = 1 << 20;

/// The SHA-256 of a file's bytes, 64 lowercase hexadecimal digits.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256_file(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut hasher = Hasher::new();
    loop {
        let n = file.read(&mut buffer).map_err(Error::io(path))?;
        if n == 0 {
            return Ok(hasher.finish());
        }
        hasher.0.update(&buffer[..n]);
    }
}

/// The SHA-256 of `bytes`, 64 lowercase hexadecimal digits.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    let mut hasher = Hasher::new();
    hasher.0.update(bytes);
    hasher.finish()
}

/// Whether `text` looks like what the functions here return.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A hash that is written into.
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(Sha256::new())
    }

    pub(crate) fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
