//! Golden data of the reference systems, for tests.
//!
//! The data lives beside the checkout in `../shared/golden` (or under
//! `$SYNTH_SHARED`), and may be absent: [`group`] then says so on stderr and
//! returns `None`, so that a test can return early, aloud.
//!
//! A group is a folder with a `manifest.json` that states, for every tensor,
//! the absolute tolerance to compare with; integer tensors must be equal.
//!
//! Beside that: finite differences ([`gradients`]), and CUDA kernels compiled for the CPU
//! ([`kernels_on_host`]; what their drivers include is in `host/`).

pub mod gradients;
pub mod kernels_on_host;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

/// The folder `shared/`, if this machine has one.
///
/// `$SYNTH_SHARED` if set, else the folder `shared` beside the checkout.
pub fn shared() -> Option<PathBuf> {
    let dir = match std::env::var_os("SYNTH_SHARED") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    dir.is_dir().then_some(dir)
}

/// A path below `shared/`, or `None` after saying aloud that the test skips.
pub fn shared_path(relative: &str) -> Option<PathBuf> {
    let path = shared().map(|dir| dir.join(relative)).filter(|path| path.exists());
    if path.is_none() {
        eprintln!("skipped: no shared/{relative} beside the checkout (set SYNTH_SHARED)");
    }
    path
}

/// Opens the golden group `name`, or returns `None` after saying that it skips.
pub fn group(name: &str) -> Result<Option<Group>> {
    match shared_path(&format!("golden/{name}")) {
        Some(dir) => Group::open(&dir).map(Some),
        None => Ok(None),
    }
}

/// One folder of golden data.
pub struct Group {
    dir: PathBuf,
    manifest: Value,
}

impl Group {
    /// Opens a group by its folder.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("manifest.json");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Self { dir: dir.to_path_buf(), manifest: serde_json::from_str(&text)? })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file of the folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// The manifest, for what has no accessor here.
    pub fn manifest(&self) -> &Value {
        &self.manifest
    }

    /// All tensors of `file` (for example `inputs.safetensors`), on the CPU.
    pub fn tensors(&self, file: &str) -> Result<HashMap<String, Tensor>> {
        let path = self.path(file);
        candle_core::safetensors::load(&path, &Device::Cpu)
            .with_context(|| path.display().to_string())
    }

    /// The tensors of `inputs.safetensors`.
    pub fn inputs(&self) -> Result<HashMap<String, Tensor>> {
        self.tensors("inputs.safetensors")
    }

    /// The expected tensors of `file`, with their tolerances.
    pub fn expected(&self, file: &str) -> Result<Expected> {
        let entry = self.manifest["files"][file].clone();
        Ok(Expected { tensors: self.tensors(file)?, entry })
    }

    /// Compares `actual` with the scalar `name` of the manifest.
    pub fn check_scalar(&self, name: &str, actual: f64) -> Result<()> {
        let entry = &self.manifest["scalars"][name];
        let expected = entry["value"]
            .as_f64()
            .or_else(|| entry.as_f64())
            .with_context(|| format!("no scalar {name}"))?;
        let atol = entry["atol"].as_f64().unwrap_or(1e-6);
        ensure!(
            (actual - expected).abs() <= atol,
            "{name}: {actual} is not {expected} within {atol}"
        );
        Ok(())
    }
}

/// Expected tensors and the tolerance of each.
pub struct Expected {
    tensors: HashMap<String, Tensor>,
    entry: Value,
}

impl Expected {
    /// The names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The expected tensor `name`.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).with_context(|| format!("no expected tensor {name}"))
    }

    /// The absolute tolerance of `name`, where the manifest states one.
    pub fn atol(&self, name: &str) -> Option<f64> {
        self.entry[name]["atol"].as_f64()
    }

    /// Checks `actual` against `name`: floats within the manifest's tolerance,
    /// integers equal in every position. Shapes may differ only by dimensions
    /// being merged (`[B, H, W]` against the reference's flat `[B*H*W]`).
    pub fn check(&self, name: &str, actual: &Tensor) -> Result<()> {
        let expected = self.get(name)?;
        if expected.dtype().is_float() {
            let atol = self.atol(name).with_context(|| format!("{name}: no atol in manifest"))?;
            close(name, actual, expected, atol)
        } else {
            close(name, actual, expected, 0.0)
        }
    }
}

/// Checks that `actual` equals `expected` within `atol` in every element.
pub fn close(name: &str, actual: &Tensor, expected: &Tensor, atol: f64) -> Result<()> {
    if actual.elem_count() != expected.elem_count() {
        bail!("{name}: shape {:?} is not {:?}", actual.shape(), expected.shape());
    }
    let values = |t: &Tensor| -> Result<Vec<f64>> {
        Ok(t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?)
    };
    let (actual, expected) = (values(actual)?, values(expected)?);
    let mut worst = (0.0_f64, 0_usize);
    for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
        ensure!(a.is_finite() == e.is_finite(), "{name}[{i}]: {a} is not {e}");
        if (a - e).abs() > worst.0 {
            worst = ((a - e).abs(), i);
        }
    }
    let (error, i) = worst;
    ensure!(
        error <= atol,
        "{name}[{i}]: {} is not {} within {atol} (largest difference {error:e})",
        actual[i],
        expected[i],
    );
    Ok(())
}
