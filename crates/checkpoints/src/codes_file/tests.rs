use std::fs;

use proptest::prelude::*;

use super::*;

fn sample(n: usize, grid: (usize, usize), codebook_len: usize) -> CodesFile {
    let factor = 4;
    let items = (0..n)
        .map(|i| CodesItem {
            name: format!("pictures/{i} é.png"),
            height: grid.0 * factor - i % factor,
            width: grid.1 * factor,
        })
        .collect();
    let codes = (0..n * grid.0 * grid.1).map(|i| (i * 7919 % codebook_len) as u32).collect();
    let sha256 = crate::sha256_bytes(b"weights");
    CodesFile {
        codec: CodecId { kind: "vqgan".to_string(), sha256, codebook_len, factor },
        items,
        grid,
        codes,
    }
}

#[test]
fn small_codes_take_two_bytes_and_others_four() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.safetensors");
    for (codebook_len, dtype) in [(65536, Dtype::U16), (70000, Dtype::U32)] {
        let mut file = sample(2, (3, 5), codebook_len);
        file.codes[3] = codebook_len as u32 - 1;
        file.write(&path)?;
        assert_eq!(TensorFile::open(&path)?.stored_dtype(TENSOR), Some(dtype));
        let read = CodesFile::read(&path)?;
        assert_eq!(read, file);
        assert_eq!(read.tensor(&Device::Cpu)?.dims(), [2, 3, 5]);
        assert_eq!(read.item_codes(1), Some(&file.codes[15..]));
        assert_eq!(read.item_codes(2), None);
        assert_eq!(read.item_codes(usize::MAX), None);
    }
    Ok(())
}

#[test]
fn contradictions_are_refused() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.safetensors");
    let good = || sample(2, (3, 5), 100);
    let change = |change: fn(&mut CodesFile)| {
        let mut file = good();
        change(&mut file);
        file.write(&path).err().map(|e| e.to_string()).unwrap_or_default()
    };
    for (error, message) in [
        (change(|f| f.codes[0] = 100), "beyond a codebook of 100"),
        (change(|f| f.codes.truncate(3)), "3 codes"),
        (change(|f| f.codec.sha256 = "no".into()), "SHA-256"),
        (change(|f| f.codec.factor = 0), "factor"),
        (change(|f| f.items[1].height = 13), "13x20 pixels"),
        (change(|f| f.items[1].width = 0), "pixels"),
        (change(|f| f.grid = (0, 5)), "grid"),
        (change(|f| f.grid = (usize::MAX, 5)), "grid"),
    ] {
        assert!(error.contains(message), "{message:?} is not in {error:?}");
    }
    assert!(!path.exists());
    Ok(())
}

#[test]
fn another_codec_is_refused_by_name() {
    let file = sample(1, (3, 5), 100);
    assert!(file.check_codec("a", &file.codec).is_ok());
    let other = CodecId { sha256: crate::sha256_bytes(b"others"), ..file.codec.clone() };
    let error = file.check_codec("a", &other).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains(&file.codec.sha256[..12]) && error.contains(&other.sha256[..12]));
}

#[test]
fn weights_are_not_codes() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.safetensors");
    let tensor = Tensor::new(1_f32, &Device::Cpu)?;
    crate::save_safetensors(&path, [("codes", &tensor)], [])?;
    let error = CodesFile::read(&path).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("not a codes file"), "{error}");
    Ok(())
}

fn written(file: &CodesFile) -> anyhow::Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    file.write(&path)?;
    Ok(fs::read(path)?)
}

fn reread(bytes: &[u8]) -> anyhow::Result<CodesFile> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    fs::write(&path, bytes)?;
    Ok(CodesFile::read(path)?)
}

proptest! {
    #[test]
    fn round_trip(n in 0_usize..4, h in 1_usize..5, w in 1_usize..5, len in 1_usize..100_000) {
        let file = sample(n, (h, w), len);
        let read = written(&file).and_then(|bytes| reread(&bytes));
        prop_assert_eq!(read.ok(), Some(file));
    }

    #[test]
    fn no_truncation_is_accepted(cut in 1_usize..200) {
        let bytes = written(&sample(2, (3, 5), 100)).unwrap_or_default();
        prop_assert!(reread(&bytes[..bytes.len().saturating_sub(cut)]).is_err());
    }

    #[test]
    fn no_flipped_bit_panics(at in 0_usize..10_000, bit in 0_u8..8) {
        let mut bytes = written(&sample(2, (3, 5), 100)).unwrap_or_default();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        // Whatever is accepted holds together.
        if let Ok(file) = reread(&bytes) {
            prop_assert!(file.validate().is_ok());
        }
    }
}
