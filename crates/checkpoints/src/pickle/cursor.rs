//! Reading the arguments of pickle instructions, within bounds.

use std::rc::Rc;

use super::{MAX_STRING_BYTES, PickleError};

/// A place in a pickle.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

type Result<T> = std::result::Result<T, PickleError>;

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// How much has been read.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// An error at the current place.
    pub(super) fn error(&self, reason: impl Into<String>) -> PickleError {
        PickleError { position: self.position, reason: reason.into() }
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let Some(taken) = rest.get(..count) else {
            return Err(self.error("the pickle is cut short"));
        };
        self.position += count;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N)?;
        taken.first_chunk().copied().ok_or_else(|| self.error("the pickle is cut short"))
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A length in 1, 4 or 8 bytes.
    pub(super) fn length(&mut self, width: u8) -> Result<usize> {
        let value = match width {
            1 => self.u8()?.into(),
            4 => self.u32()?.into(),
            _ => self.array().map(u64::from_le_bytes)?,
        };
        usize::try_from(value).map_err(|_| self.error("a length overflows"))
    }

    /// A string of `length` bytes.
    pub(super) fn text(&mut self, length: usize) -> Result<Rc<str>> {
        if length > MAX_STRING_BYTES {
            let reason = format!("a string of {length} bytes; the limit is {MAX_STRING_BYTES}");
            return Err(self.error(reason));
        }
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.into()),
            Err(_) => Err(self.error("a string is not UTF-8")),
        }
    }

    /// A line, without its end.
    pub(super) fn line(&mut self) -> Result<Rc<str>> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let window = &rest[..rest.len().min(MAX_STRING_BYTES)];
        let Some(length) = window.iter().position(|&byte| byte == b'\n') else {
            return Err(self.error("a name does not end"));
        };
        let line = self.text(length)?;
        self.position += 1;
        Ok(line)
    }
}
