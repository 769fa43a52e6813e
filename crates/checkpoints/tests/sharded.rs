//! Sharded checkpoints, and tensors in terms of others.

use std::fs;
use std::path::Path;

use anyhow::Result;
use candle_core::{Device, Tensor};
use checkpoints::{Derived, FileKind, TensorFile, save_safetensors};

fn save(path: &Path, names: &[&str]) -> Result<()> {
    let tensor = |name: &&str| Tensor::new(name.as_bytes(), &Device::Cpu);
    let tensors = names.iter().map(tensor).collect::<candle_core::Result<Vec<_>>>()?;
    save_safetensors(path, names.iter().zip(&tensors), [])?;
    Ok(())
}

fn index(dir: &Path, map: &[(&str, &str)]) -> Result<std::path::PathBuf> {
    let map: serde_json::Map<_, _> =
        map.iter().map(|(name, file)| (name.to_string(), (*file).into())).collect();
    let path = dir.join("model.safetensors.index.json");
    let text = serde_json::json!({ "metadata": { "total_size": 7 }, "weight_map": map });
    fs::write(&path, text.to_string())?;
    Ok(path)
}

#[test]
fn shards_are_one_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    save(&dir.path().join("1.safetensors"), &["module.a", "module.b"])?;
    save(&dir.path().join("2.safetensors"), &["module.c", "stray"])?;
    let map = [
        ("module.a", "1.safetensors"),
        ("module.b", "1.safetensors"),
        ("module.c", "2.safetensors"),
    ];
    let file = TensorFile::open(index(dir.path(), &map)?)?;
    assert_eq!((file.kind(), file.paths().count()), (FileKind::Sharded, 2));
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(file.skipped(), ["stray"]);
    for name in ["a", "b", "c"] {
        let expected = format!("module.{name}");
        assert_eq!(file.tensor(name, &Device::Cpu)?.to_vec1::<u8>()?, expected.as_bytes());
    }
    Ok(())
}

#[test]
fn an_index_names_only_files_beside_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    fs::create_dir(dir.path().join("inner"))?;
    save(&dir.path().join("1.safetensors"), &["a"])?;
    let message = |map: &[(&str, &str)]| -> Result<String> {
        let path = index(&dir.path().join("inner"), map)?;
        Ok(TensorFile::open(path).err().map(|e| e.to_string()).unwrap_or_default())
    };
    let absolute = dir.path().join("1.safetensors");
    for shard in ["../1.safetensors", "..", "", ".", "a/b", "..\\1", &absolute.to_string_lossy()] {
        let message = message(&[("a", shard)])?;
        assert!(message.contains("not a file beside it"), "{shard}: {message}");
    }
    assert!(message(&[("a", "none.safetensors")])?.contains("none.safetensors"));
    save(&dir.path().join("inner/1.safetensors"), &["b"])?;
    assert!(message(&[("a", "1.safetensors")])?.contains("does not have it"));
    // An index is no shard.
    let own = "model.safetensors.index.json";
    assert!(message(&[("a", own)])?.contains(own));
    for text in ["{}", "{\"weight_map\": 3}", "{\"weight_map\": {\"a\": 1}}", "{"] {
        let path = dir.path().join("x.json");
        fs::write(&path, text)?;
        let message = TensorFile::open(&path).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("--config"), "{text}: {message}");
    }
    Ok(())
}

#[test]
fn tensors_in_terms_of_others() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("x.safetensors");
    let tensors = [
        ("a", Tensor::new(&[[1_f32, 2.0]], &Device::Cpu)?),
        ("b", Tensor::new(&[[3_f32, 4.0], [5.0, 6.0]], &Device::Cpu)?),
        ("c", Tensor::new(&[7_u32], &Device::Cpu)?),
    ];
    save_safetensors(&path, tensors.iter().map(|(name, tensor)| (*name, tensor)), [])?;
    let open = || TensorFile::open(&path);
    let derived = |name: &str, shape: Option<&[usize]>, sources: &[&str]| Derived {
        name: name.to_string(),
        shape: shape.map(<[usize]>::to_vec),
        sources: sources.iter().map(|source| source.to_string()).collect(),
    };
    let file = open()?.derive([derived("ba", Some(&[3, 2]), &["b", "a"])])?;
    assert_eq!(file.names().collect::<Vec<_>>(), ["ba", "c"]);
    let joined = file.tensor("ba", &Device::Cpu)?;
    assert_eq!(joined.to_vec2::<f32>()?, [[3.0, 4.0], [5.0, 6.0], [1.0, 2.0]]);
    assert_eq!(file.tensor_sha256("ba")?, {
        let bytes: Vec<u8> =
            [3_f32, 4.0, 5.0, 6.0, 1.0, 2.0].into_iter().flat_map(f32::to_le_bytes).collect();
        checkpoints::sha256_bytes(&bytes)
    });

    let file = open()?.derive([Derived::renamed("a", "b2"), Derived::renamed("c", "a")])?;
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "b2"]);

    for bad in [
        vec![derived("x", None, &["none"])],
        vec![derived("x", None, &["a"]), derived("y", None, &["a"])],
        vec![derived("x", None, &["a", "b"])],
        vec![derived("x", Some(&[2, 2]), &["a", "b"])],
        vec![derived("x", Some(&[usize::MAX, 3]), &["a"])],
        vec![derived("x", Some(&[3]), &["a", "c"])],
        vec![derived("b", None, &["a"])],
        vec![derived("x", None, &["a"]), derived("x", None, &["b"])],
        vec![derived("x", Some(&[]), &[])],
    ] {
        assert!(open()?.derive(bad.clone()).is_err(), "{bad:?}");
    }
    Ok(())
}
