//! Codes on disk: a safetensors file with `codes: [N, H, W]`, u16 where every
//! code fits, and metadata that names the codec.
//!
//! | metadata key | value |
//! |---|---|
//! | `kind` | `synth-codes` |
//! | `format_version` | `1` |
//! | `codec_kind` | the model family that made them |
//! | `codec_sha256` | SHA-256 that names its wiring and weights, see `pipeline::Codec::sha256` |
//! | `codebook_len` | codes lie below it |
//! | `factor` | pixels per code, along each side |
//! | `items` | JSON: `[[name, height, width], ...]`, pixels of the original |

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::Dtype;

use crate::error::{Error, Result};
use crate::hash::is_sha256;
use crate::tensor_file::TensorFile;
use crate::write::{Part, write_parts};

const KIND: &str = "synth-codes";
const FORMAT_VERSION: &str = "1";
const TENSOR: &str = "codes";

/// The most pictures in a file: ImageNet, twice.
const MAX_ITEMS: usize = 2_600_000;
/// The longest name of a picture.
const MAX_NAME_BYTES: usize = 1 << 12;
/// The largest number of pixels per code along a side.
const MAX_FACTOR: usize = 1 << 12;
/// The largest side of a grid, in codes.
const MAX_GRID_SIDE: usize = 1 << 16;

/// The codec that made codes, and the only one that can read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodecId {
    /// The model family, for people.
    pub kind: String,
    /// SHA-256 that names the codec: its wiring and weights, whatever file they came from.
    pub sha256: String,
    /// The number of codes in the codebook.
    pub codebook_len: usize,
    /// Pixels per code, along each side.
    pub factor: usize,
}

/// A picture that was encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodesItem {
    /// Its name, as the encoder was given it.
    pub name: String,
    /// Its height in pixels before padding.
    pub height: usize,
    /// Its width in pixels before padding.
    pub width: usize,
}

/// The codes of pictures that share one grid size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodesFile {
    /// What made them.
    pub codec: CodecId,
    /// One per picture.
    pub items: Vec<CodesItem>,
    /// Height and width of the grid, in codes.
    pub grid: (usize, usize),
    /// `[N, H, W]`, row-major.
    pub codes: Vec<u32>,
}

impl CodesFile {
    /// Writes the file, replacing what is there: callers ask first.
    ///
    /// # Errors
    /// When the parts contradict each other, or writing fails.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.validate().map_err(|reason| Error::format(path, reason))?;
        let items: Vec<_> = self.items.iter().map(|i| (&i.name, i.height, i.width)).collect();
        let items =
            serde_json::to_string(&items).map_err(|e| Error::format(path, e.to_string()))?;
        let metadata = [
            ("kind", KIND.to_string()),
            ("format_version", FORMAT_VERSION.to_string()),
            ("codec_kind", self.codec.kind.clone()),
            ("codec_sha256", self.codec.sha256.clone()),
            ("codebook_len", self.codec.codebook_len.to_string()),
            ("factor", self.codec.factor.to_string()),
            ("items", items),
        ];
        let (height, width) = self.grid;
        let narrow = self.codes.iter().all(|&code| code <= u16::MAX.into());
        let part = Part {
            name: TENSOR.to_string(),
            dtype: if narrow { Dtype::U16 } else { Dtype::U32 },
            shape: vec![self.items.len(), height, width],
            blocks: None,
            write: Box::new(|writer| {
                self.codes.iter().try_for_each(|&code| {
                    if narrow {
                        // `narrow` says that it fits.
                        writer.write_all(&(code as u16).to_le_bytes())
                    } else {
                        writer.write_all(&code.to_le_bytes())
                    }
                })
            }),
        };
        write_parts(path, vec![part], metadata.map(|(key, value)| (key.to_string(), value)))
    }

    /// Reads a file and checks everything that it says.
    ///
    /// # Errors
    /// When it is no codes file, of a newer format, or contradicts itself.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = TensorFile::open(path)?;
        if file.metadata().get("kind").map(String::as_str) != Some(KIND) {
            return Err(Error::format(path, "is not a codes file: `encode` writes one"));
        }
        Self::parse(&file).map_err(|error| match error {
            ParseError::Reason(reason) => {
                Error::format(path, format!("the codes file is invalid: {reason}"))
            }
            ParseError::Read(error) => error,
        })
    }

    /// Checks that `codec` made these codes.
    ///
    /// # Errors
    /// When another one did; the message names both.
    pub fn check_codec(&self, path: impl AsRef<Path>, codec: &CodecId) -> Result<()> {
        if self.codec == *codec {
            return Ok(());
        }
        let describe = |codec: &CodecId| {
            let sha256 = codec.sha256.get(..12).unwrap_or(&codec.sha256);
            format!(
                "{} {sha256} ({} codes, factor {})",
                codec.kind, codec.codebook_len, codec.factor
            )
        };
        let reason = format!(
            "these codes were made by {}, and mean nothing to {}: use that model",
            describe(&self.codec),
            describe(codec)
        );
        Err(Error::format(path.as_ref(), reason))
    }

    /// The codes as a tensor `[N, H, W]`, u32.
    ///
    /// # Errors
    /// When the device has no room for them.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        let shape = (self.items.len(), self.grid.0, self.grid.1);
        Ok(Tensor::from_slice(&self.codes, shape, device)?)
    }

    /// The codes of one picture, `[H, W]`, row-major.
    pub fn item_codes(&self, index: usize) -> Option<&[u32]> {
        let each = self.grid.0.checked_mul(self.grid.1)?;
        let start = index.checked_mul(each)?;
        self.codes.get(start..start.checked_add(each)?)
    }

    fn parse(file: &TensorFile) -> std::result::Result<Self, ParseError> {
        let metadata = file.metadata();
        let version = text(metadata, "format_version")?;
        if version != FORMAT_VERSION {
            return Err(ParseError::Reason(format!(
                "its format version is {version:.20}, and this program knows {FORMAT_VERSION}: \
                 use a newer one"
            )));
        }
        let codec = CodecId {
            kind: text(metadata, "codec_kind")?.to_string(),
            sha256: text(metadata, "codec_sha256")?.to_string(),
            codebook_len: number(metadata, "codebook_len")?,
            factor: number(metadata, "factor")?,
        };
        let items: Vec<(String, usize, usize)> = serde_json::from_str(text(metadata, "items")?)
            .map_err(|e| ParseError::Reason(format!("`items`: {e}")))?;
        let items: Vec<_> = items
            .into_iter()
            .map(|(name, height, width)| CodesItem { name, height, width })
            .collect();
        let shape = file.shape(TENSOR).map(|shape| shape.dims().to_vec()).unwrap_or_default();
        let [n, height, width] = shape[..] else {
            return Err(ParseError::Reason(format!("`codes` has shape {shape:?}, not [N, H, W]")));
        };
        if n != items.len() {
            let reason = format!("`codes` has {n} grids and `items` {}", items.len());
            return Err(ParseError::Reason(reason));
        }
        let codes = file.unsigned(TENSOR).map_err(ParseError::Read)?;
        let read = Self { codec, items, grid: (height, width), codes };
        read.validate().map_err(ParseError::Reason)?;
        Ok(read)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        let CodecId { kind, sha256, codebook_len, factor } = &self.codec;
        if kind.is_empty() || kind.len() > MAX_NAME_BYTES {
            return Err("the codec has no kind".to_string());
        }
        if !is_sha256(sha256) {
            return Err("the codec's SHA-256 is not 64 lowercase hexadecimal digits".to_string());
        }
        if !(1..=MAX_FACTOR).contains(factor) {
            return Err(format!("the factor is {factor}, not from 1 to {MAX_FACTOR}"));
        }
        if self.items.len() > MAX_ITEMS {
            return Err(format!("{} pictures; the limit is {MAX_ITEMS}", self.items.len()));
        }
        let (height, width) = self.grid;
        let sides = 1..=MAX_GRID_SIDE;
        if !sides.contains(&height) || !sides.contains(&width) {
            return Err(format!("the grid is {height}x{width}, not from 1 to {MAX_GRID_SIDE}"));
        }
        for item in &self.items {
            let name: String = item.name.chars().take(80).collect();
            if item.name.len() > MAX_NAME_BYTES {
                return Err(format!("the name {name}... is longer than {MAX_NAME_BYTES} bytes"));
            }
            if item.height.div_ceil(*factor) != height || item.width.div_ceil(*factor) != width {
                return Err(format!(
                    "{name}: {}x{} pixels do not make a grid of {height}x{width} at factor {factor}",
                    item.height, item.width
                ));
            }
        }
        // All three are bounded above.
        if self.codes.len() != self.items.len() * height * width {
            return Err(format!(
                "{} codes for {} grids of {height}x{width}",
                self.codes.len(),
                self.items.len()
            ));
        }
        match self.codes.iter().find(|&&code| code as usize >= *codebook_len) {
            Some(code) => Err(format!("code {code} is beyond a codebook of {codebook_len}")),
            None => Ok(()),
        }
    }
}

enum ParseError {
    Reason(String),
    Read(Error),
}

fn text<'a>(
    metadata: &'a BTreeMap<String, String>,
    key: &str,
) -> std::result::Result<&'a str, ParseError> {
    metadata
        .get(key)
        .map(String::as_str)
        .ok_or_else(|| ParseError::Reason(format!("its metadata has no `{key}`")))
}

fn number(
    metadata: &BTreeMap<String, String>,
    key: &str,
) -> std::result::Result<usize, ParseError> {
    let value = text(metadata, key)?;
    value.parse().map_err(|_| ParseError::Reason(format!("`{key}` is {value:.20}, not a number")))
}

#[cfg(test)]
mod tests;
