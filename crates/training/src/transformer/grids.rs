//! Conditions that are grids of codes: label maps, depth maps, small pictures.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use checkpoints::codes_file::CodesItem;
use codebook::CodeGrid;
use image_data::Example;
use pipeline::{
    Codec, CodecInput, GridCondition, GridInput, LoadOptions, ModelSpec, PictureCondition, StageRef,
};

use super::config::ConditionSetting;

/// The codec of a condition, and what it reads.
pub struct GridCodec {
    codec: Arc<Codec>,
    /// Whether it is another one than the first stage.
    own: bool,
    input: GridInput,
    downsample: Option<usize>,
}

impl GridCodec {
    /// The codec that `setting` asks for; none where conditions are no grids.
    ///
    /// # Errors
    /// If it cannot be loaded, or its codes are of another size than they are used at.
    pub fn open(
        setting: &ConditionSetting,
        first_stage: &Arc<Codec>,
        device: &Device,
    ) -> Result<Option<Self>> {
        let ConditionSetting::Grid { codec, downsample, .. } = setting else { return Ok(None) };
        let own = !codec.as_os_str().is_empty();
        let codec = if own { Arc::new(load(codec, device)?) } else { first_stage.clone() };
        let input = match codec.input() {
            CodecInput::Pictures => GridInput::Image,
            CodecInput::Labels(_) => GridInput::Segmentation,
            CodecInput::Depth => GridInput::Depth,
        };
        let factor = codec.factor();
        ensure!(
            downsample.is_multiple_of(factor),
            "condition.downsample = {downsample} is not a multiple of the codec's factor {factor}"
        );
        let downsample = (*downsample > 0).then_some(*downsample);
        Ok(Some(Self { codec, own, input, downsample }))
    }

    /// The codec.
    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// What a model folder says of conditions of `grid` = (height, width) codes, the token
    /// of code 0 being `offset`.
    pub fn condition(&self, grid: (usize, usize), offset: u32, null: u32) -> GridCondition {
        let labels = self.codec.input().labels();
        GridCondition {
            input: self.input,
            codec: self.own.then(|| StageRef::at("condition_stage", self.codec.sha256())),
            grid: [grid.0, grid.1],
            offset,
            downsample: self.downsample,
            labels: (!labels.is_empty()).then(|| labels.to_vec()),
            null: Some(null),
        }
    }

    /// What the codes of a condition depend on, besides the picture's crop.
    pub fn plan(&self) -> serde_json::Value {
        serde_json::json!({ "codec": self.codec.sha256(), "downsample": self.downsample })
    }

    /// The codes of the condition of `example`, and what they are of.
    ///
    /// # Errors
    /// If its map is missing, or has labels that the codec does not know.
    pub fn encode(&self, example: &Example) -> Result<(CodesItem, CodeGrid)> {
        let name = &example.name;
        let condition = match self.input {
            GridInput::Segmentation => {
                let map = example.labels.clone();
                PictureCondition::Labels(map.with_context(|| format!("{name} has no label map"))?)
            }
            GridInput::Depth => {
                let map = example.depth.as_ref();
                let map = map.with_context(|| format!("{name} has no depth map"))?;
                // Scaled by the range of the whole map already, of which this may be a part.
                let shape = (1, 1, map.height() as usize, map.width() as usize);
                let tensor = Tensor::from_slice(map.as_raw(), shape, self.codec.device())?;
                PictureCondition::Tensor(tensor)
            }
            GridInput::Edges | GridInput::Image => PictureCondition::Picture(example.image.clone()),
        };
        let (width, height) = condition.size()?;
        let names = self.codec.input().labels();
        let codes = condition.encode(&self.codec, names, self.downsample);
        let codes = codes.with_context(|| format!("the condition of {name}"))?;
        let side = |side: u32| self.downsample.unwrap_or(side as usize);
        let item = CodesItem { name: name.clone(), height: side(height), width: side(width) };
        Ok((item, codes))
    }
}

fn load(path: &Path, device: &Device) -> Result<Codec> {
    let options = LoadOptions { device: device.clone(), ..LoadOptions::default() };
    Codec::load(&ModelSpec::new(path), &options)
        .with_context(|| format!("condition.codec={}", path.display()))
}
