//! What the fuzz targets share: input to a file in memory, and every reader called
//! as the program calls it.
//!
//! None of these functions returns anything: an input may be refused or read, and
//! must do neither by a panic, by running out of memory, or never.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::Device;
use checkpoints::TensorFile;
use checkpoints::codes_file::CodesFile;
use checkpoints::reference_config::ReferenceConfig;
use image_data::Limits;
use pipeline::TransformerConfig;
use vq_autoencoder::VqConfig;

/// How many tensors of a file are read; all of them are named and measured.
const TENSORS_READ: usize = 16;
/// The largest picture that is decoded.
const MAX_PIXELS: u64 = 1 << 18;

/// A legacy checkpoint up to its third pickle.
pub const LEGACY_HEAD: &[u8] =
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

/// A folder in memory, one a process.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let memory = Path::new("/dev/shm");
            let parent = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
            tempfile::tempdir_in(parent).expect("a folder for the inputs")
        })
        .path()
}

/// Writes `data` to the file `name`.
pub fn file(name: &str, data: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, data).expect("the input is written");
    path
}

/// [`file`], beside the shards `a.safetensors` (tensors a, b) and `b.safetensors` (c).
pub fn beside_shards(name: &str, data: &[u8]) -> PathBuf {
    static SHARDS: OnceLock<()> = OnceLock::new();
    SHARDS.get_or_init(|| {
        let shard = |file: &str, names: &[&str]| {
            let tensor = candle_core::Tensor::new(&[1_f32, 2.0], &Device::Cpu).expect("a tensor");
            let tensors = names.iter().map(|name| (*name, &tensor));
            checkpoints::save_safetensors(folder().join(file), tensors, []).expect("a shard");
        };
        shard("a.safetensors", &["a", "b"]);
        shard("b.safetensors", &["c"]);
    });
    file(name, data)
}

/// Opens a checkpoint, with and without its moving average, and reads some of it.
pub fn read_checkpoint(path: &Path) {
    let _ = TensorFile::open_weights(path, checkpoints::Weights::Averaged);
    let Ok(file) = TensorFile::open(path) else { return };
    for name in file.names() {
        assert!(file.shape(name).is_some() && file.stored_dtype(name).is_some());
    }
    for name in file.names().take(TENSORS_READ) {
        let elements = file.shape(name).map(|shape| shape.elem_count());
        if let Ok(tensor) = file.tensor(name, &Device::Cpu) {
            assert_eq!(Some(tensor.elem_count()), elements);
            let _ = file.tensor_sha256(name);
        }
    }
    let blocks = file.blocks().unwrap_or_default();
    for (name, matrix) in blocks.iter().take(TENSORS_READ) {
        if let Ok(tensor) = file.block_matrix(name, matrix) {
            assert_eq!(tensor.shape().elem_count(), matrix.elements());
            let _ = tensor.dequantize(&Device::Cpu);
        }
    }
}

/// Reads a project file and builds the configuration of the model in it.
pub fn read_reference_config(path: &Path) {
    let Ok(config) = ReferenceConfig::read(path) else { return };
    let Ok(model) = config.model() else { return };
    if let Ok(config) = VqConfig::from_reference(&model.target, &model.params) {
        check(&config);
    }
}

/// Reads `config.json` of a model folder.
pub fn read_model_config(data: &[u8]) {
    let Ok(value) = serde_json::from_slice(data) else { return };
    let path = Path::new("config.json");
    if let Ok(config) = pipeline::vq_config(&value, path) {
        check(&config);
    }
    if let Ok(config) = TransformerConfig::from_value(&value, path) {
        let mut again = config.to_value().expect("what was read is valid");
        again["format_version"] = 1.into();
        let again = TransformerConfig::from_value(&again, path);
        assert_eq!(again.expect("what was written is read"), config);
    }
}

/// Reads a tokenizer, and has it read texts of all kinds.
pub fn read_tokenizer(data: &[u8]) {
    let Ok(tokenizer) = text_tokens::TextTokenizer::new(data, Path::new("tokenizer.json")) else {
        return;
    };
    for text in ["", "A red cat, 12 \u{1f389} e\u{301}", "日本\u{fdfa}\0 \r\n\t", "aaaaaaaaaaaaaaaaaaaab"] {
        let (Ok(ids), Ok(pieces)) = (tokenizer.encode(text), tokenizer.pieces(text)) else {
            continue;
        };
        assert_eq!(ids.len(), pieces.len());
    }
}

/// A configuration that was accepted is valid, and stays what it is.
fn check(config: &VqConfig) {
    assert!(config.validate().is_ok() && config.parameter_count().is_ok());
    assert!(config.factor() >= 1);
    let json = pipeline::model_config(config, &Default::default(), serde_json::json!({})).expect("JSON");
    let again = pipeline::vq_config(&json, Path::new("config.json"));
    assert_eq!(again.expect("what was written is read"), *config);
}

/// Reads codes; what is accepted is written and read again.
pub fn read_codes(path: &Path) {
    let Ok(codes) = CodesFile::read(path) else { return };
    for index in 0..codes.items.len().min(TENSORS_READ) {
        assert_eq!(codes.item_codes(index).map(<[u32]>::len), Some(codes.grid.0 * codes.grid.1));
    }
    let again = folder().join("again.codes.safetensors");
    codes.write(&again).expect("what was read is written");
    assert_eq!(CodesFile::read(&again).expect("and read again"), codes);
}

/// Reads the recipe of a picture, and the picture.
pub fn read_png(path: &Path) {
    if let Ok(chunks) = image_data::png_text(path) {
        for (_, text) in chunks {
            let _ = serde_json::from_str::<serde_json::Value>(&text);
        }
    }
    let limits = Limits { max_pixels: MAX_PIXELS, max_alloc: MAX_PIXELS << 4, ..Limits::default() };
    if let Ok(picture) = image_data::load_rgb(path, &limits) {
        assert!(u64::from(picture.width()) * u64::from(picture.height()) <= MAX_PIXELS);
    }
}

/// A zip archive, entries stored, with `pickle` and one storage `0` of 64 bytes.
pub fn zip_with_pickle(pickle: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    let storage = [1_u8; 64];
    let entries = [("x/data.pkl", pickle), ("x/data/0", &storage)];
    for (name, content) in entries {
        let (start, size) = (bytes.len() as u32, (content.len() as u32).to_le_bytes());
        let name_bytes = (name.len() as u16).to_le_bytes();
        bytes.extend(b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0");
        bytes.extend([&size[..], &size, &name_bytes, b"\0\0", name.as_bytes(), content].concat());
        directory.extend(b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0\0\0\0\0");
        directory.extend([&size[..], &size, &name_bytes, &[0; 12], &start.to_le_bytes()].concat());
        directory.extend(name.as_bytes());
    }
    let (start, size) = (bytes.len() as u32, directory.len() as u32);
    bytes.extend(&directory);
    let count = (entries.len() as u16).to_le_bytes();
    bytes.extend([b"PK\x05\x06\0\0\0\0", &count[..], &count].concat());
    bytes.extend([&size.to_le_bytes()[..], &start.to_le_bytes(), b"\0\0"].concat());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_read_or_refused() -> std::io::Result<()> {
        let seeds = |target: &str| -> std::io::Result<Vec<Vec<u8>>> {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
            std::fs::read_dir(folder)?.map(|entry| std::fs::read(entry?.path())).collect()
        };
        let files = seeds("safetensors")?;
        files.iter().for_each(|data| read_checkpoint(&file("seed.safetensors", data)));
        let configs = seeds("model_config")?;
        configs.iter().for_each(|data| read_model_config(data));
        assert!(!files.is_empty() && !configs.is_empty());
        Ok(())
    }

    #[test]
    fn the_zip_is_one() {
        let path = file("test.ckpt", &zip_with_pickle(b"\x80\x02}."));
        assert!(TensorFile::open(path).is_ok());
    }
}
