//! The codes that a run learns from: read from files, or made from pictures once and
//! kept in the run folder.

mod cache;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use checkpoints::codes_file::{CodecId, CodesFile};
use pipeline::Codec;

use super::condition::Labels;
use super::config::TransformerTrainConfig;
use super::grids::GridCodec;
use crate::init::stream_of;
use crate::observer::{Event, Observer};
use crate::pictures::open_pictures;
use crate::run::Limits;

/// Codes in files, and where conditions are grids, theirs: a file for each, in the same
/// order.
#[derive(Default)]
pub(super) struct Part {
    pub codes: Vec<CodesFile>,
    pub conditions: Vec<CodesFile>,
}

/// Codes to learn from, and held out.
pub(super) struct Codes {
    pub train: Part,
    pub held_out: Part,
    /// What is known of the pictures.
    pub labels: Labels,
}

/// The identity of `codec` as codes files state it.
pub(super) fn codec_id(codec: &Codec) -> CodecId {
    CodecId {
        kind: pipeline::KIND.to_owned(),
        sha256: codec.sha256().to_owned(),
        codebook_len: codec.describe().codes,
        factor: codec.factor(),
    }
}

impl Codes {
    /// The codes of `config.data`; those of pictures are kept in `cache`. None if `limits`
    /// ask to stop while they are made.
    pub fn open(
        config: &TransformerTrainConfig,
        (codec, grids): (&Codec, Option<&GridCodec>),
        cache: &Path,
        limits: Limits,
        observer: &mut dyn Observer,
    ) -> Result<Option<Self>> {
        let data = &config.data;
        ensure!(
            !data.as_os_str().is_empty(),
            "no data: give a folder of pictures, or codes that synth-cli encode wrote, with data=PATH"
        );
        ensure!(data.exists(), "data={}: there is no such file or folder", data.display());
        let files = codes_files(data)?;
        let codes = if files.is_empty() {
            let catalog = open_pictures(data, config.validation.fraction)?;
            let message = catalog.description();
            observer.see(&Event::Note { message: &message });
            for message in catalog.warnings() {
                observer.see(&Event::Warning { message });
            }
            let parts = cache::encode(config, (codec, grids), &catalog, cache, limits, observer)?;
            let Some((train, held_out)) = parts else { return Ok(None) };
            let labels = Labels::of(&catalog, Labels::read(data)?);
            Self { train, held_out, labels }
        } else {
            Self::read(&files, codec, config.validation.fraction, Labels::read(data)?)?
        };
        codes.check()?;
        Ok(Some(codes))
    }

    /// Reads codes files; pictures whose name's hash lies below `fraction` are held out.
    fn read(files: &[PathBuf], codec: &Codec, fraction: f64, labels: Labels) -> Result<Self> {
        let id = codec_id(codec);
        let mut codes = Self { train: Part::default(), held_out: Part::default(), labels };
        for path in files {
            let file = CodesFile::read(path)?;
            file.check_codec(path, &id)?;
            let mut parts = [false, true].map(|_| CodesFile {
                codec: file.codec.clone(),
                items: Vec::new(),
                grid: file.grid,
                codes: Vec::new(),
            });
            for (index, item) in file.items.iter().enumerate() {
                let hash = (stream_of(&item.name) >> 11) as f64 / (1u64 << 53) as f64;
                let part = &mut parts[usize::from(hash < fraction)];
                part.items.push(item.clone());
                part.codes.extend(file.item_codes(index).context("a codes file without codes")?);
            }
            let [train, held_out] = parts;
            codes.train.codes.extend((!train.items.is_empty()).then_some(train));
            codes.held_out.codes.extend((!held_out.items.is_empty()).then_some(held_out));
        }
        Ok(codes)
    }

    /// Height and width of all grids.
    pub fn grid(&self) -> (usize, usize) {
        self.train.codes.first().map_or((0, 0), |file| file.grid)
    }

    /// Height and width of the grids of conditions; none where these are no grids.
    pub fn condition_grid(&self) -> Option<(usize, usize)> {
        self.train.conditions.first().map(|file| file.grid)
    }

    fn check(&self) -> Result<()> {
        let grid = self.grid();
        ensure!(!self.train.codes.is_empty(), "there are no codes to learn from");
        for file in self.train.codes.iter().chain(&self.held_out.codes) {
            let first = file.items.first().map_or("", |item| item.name.as_str());
            ensure!(
                file.grid == grid,
                "{first} has a grid of {}x{} codes, others have {}x{}: a transformer learns one \
                 size, so encode crops of one size",
                file.grid.1,
                file.grid.0,
                grid.1,
                grid.0
            );
        }
        Ok(())
    }
}

/// The codes files at `path`, sorted by name; none for a folder of pictures.
fn codes_files(path: &Path) -> Result<Vec<PathBuf>> {
    let is_codes = |path: &Path| path.extension().is_some_and(|end| end == "safetensors");
    if path.is_file() {
        return Ok(is_codes(path).then(|| path.to_path_buf()).into_iter().collect());
    }
    let mut files = Vec::new();
    let mut folders = vec![path.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let place = || folder.display().to_string();
        for entry in std::fs::read_dir(&folder).with_context(place)? {
            let path = entry.with_context(place)?.path();
            if path.is_dir() {
                folders.push(path);
            } else if is_codes(&path) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
