//! The reference's `Net2NetTransformer`, as its project files spell it.

use cond_transformer::{Coordinates, GptConfig, LayoutTokens, Order, Places};
use serde::Deserialize;
use serde_json::Value;
use vq_autoencoder::VqConfig;

use super::Extra;
use crate::error::{Error, Result};
use crate::transformer_config::{
    Architecture, ClassCondition, ConditionConfig, CoordinateCondition, GridCondition, GridInput,
    LayoutCondition, SamplingDefaults, StageRef, StartCondition, TransformerConfig, UNKNOWN,
};

/// Where a `Net2NetTransformer`'s checkpoint keeps its parts.
pub(crate) const TRANSFORMER: &str = "transformer.";
pub(crate) const FIRST_STAGE: &str = "first_stage_model.";
pub(crate) const CONDITION_STAGE: &str = "cond_stage_model.";

/// The most classes that a configuration may ask for.
const MAX_CLASSES: usize = 1 << 20;

/// What a project file says of a transformer and its codecs.
#[derive(Debug)]
pub(crate) struct ReferenceTransformer {
    /// All of it, but for the identities of the codecs.
    pub(crate) config: TransformerConfig,
    pub(crate) first_stage: VqConfig,
    /// Where the condition has a codec of its own.
    pub(crate) condition_stage: Option<VqConfig>,
}

/// `params` of `Net2NetTransformer`. What trains it is not read.
#[derive(Deserialize)]
struct Params {
    transformer_config: Node,
    first_stage_config: Node,
    cond_stage_config: Value,
    #[serde(default)]
    permuter_config: Option<Node>,
    #[serde(default)]
    cond_stage_key: String,
    #[serde(default)]
    downsample_cond_size: Option<i64>,
    #[serde(default)]
    sos_token: u32,
    #[serde(default)]
    unconditional: bool,
}

#[derive(Deserialize)]
struct Node {
    target: String,
    #[serde(default)]
    params: Value,
}

impl Node {
    fn class(&self) -> &str {
        self.target.rsplit('.').next().unwrap_or_default()
    }
}

/// `params` of the reference's `GPT`; dropouts have no part in sampling.
#[derive(Deserialize)]
struct GptParams {
    vocab_size: usize,
    block_size: usize,
    n_layer: usize,
    n_head: usize,
    n_embd: usize,
    #[serde(default)]
    n_unmasked: usize,
}

impl ReferenceTransformer {
    /// Reads `params` of the class `target`; `root` is the whole project, in whose
    /// `data:` scene models have what their tokens mean. `names` are those of
    /// classes, which the reference does not state (and a file written here does).
    ///
    /// # Errors
    /// [`Error::Target`] saying which part is unknown or missing.
    pub(crate) fn new(
        target: &str,
        params: &Value,
        root: &Value,
        names: Option<&[String]>,
    ) -> Result<Self> {
        let extra = Extra::read(root)?;
        let names = match extra.as_ref().map(|extra| &extra.condition) {
            None => names,
            Some(ConditionConfig::Layout(layout)) => Some(layout.names.as_slice()),
            Some(_) => None,
        };
        let fail = |reason: String| Error::Target { target: target.to_owned(), reason };
        let params = Params::deserialize(params)
            .map_err(|e| fail(format!("its params do not describe a transformer: {e}")))?;
        let node = &params.transformer_config;
        if node.class() != "GPT" {
            return Err(fail(format!("transformer {:?} is not known; GPT is", node.target)));
        }
        let gpt = GptParams::deserialize(&node.params)
            .map_err(|e| fail(format!("transformer_config.params: {e}")))?;
        let first_stage = VqConfig::from_reference(
            &params.first_stage_config.target,
            &params.first_stage_config.params,
        )?;
        let side = first_stage.resolution / first_stage.factor();
        let grid = params.permuter_config.as_ref().map_or([side, side], |node| {
            let size = |key: &str| node.params[key].as_u64().map_or(side, |n| n as usize);
            [size("H"), size("W")]
        });
        let permuter = match params.permuter_config.as_ref().map(Node::class) {
            None => Order::Identity,
            Some(class) => order(class)
                .ok_or_else(|| fail(format!("permuter {class:?} is not one of the reference's")))?,
        };
        let stage = Stage { params: &params, data: &root["data"], names };
        let (condition, condition_stage) = stage.read(&first_stage).map_err(fail)?;
        let defaults = SamplingDefaults { top_k: Some(TOP_K), ..SamplingDefaults::default() };
        let (condition, grid, sampling) = match extra {
            None => (condition, grid, defaults),
            Some(extra) => {
                let codec = |condition: &ConditionConfig| match condition {
                    ConditionConfig::Grid(grid) => grid.codec.is_some(),
                    _ => false,
                };
                let same = extra.condition.kind() == condition.kind();
                if !same || codec(&extra.condition) != codec(&condition) {
                    return Err(fail(
                        "its section synth_codes tells of another condition: take it out"
                            .to_owned(),
                    ));
                }
                (extra.condition, extra.grid, extra.sampling)
            }
        };
        let config = TransformerConfig {
            architecture: Architecture::Gpt(GptConfig {
                vocab_size: gpt.vocab_size,
                block_size: gpt.block_size,
                n_layer: gpt.n_layer,
                n_head: gpt.n_head,
                n_embd: gpt.n_embd,
                n_unmasked: gpt.n_unmasked,
            }),
            weights: None,
            first_stage: StageRef::at("first_stage", UNKNOWN),
            codes: first_stage.quantizer.len(),
            grid,
            permuter,
            condition,
            sampling,
            preprocessing: Value::Null,
            provenance: Value::Null,
        };
        config.validate().map_err(|e| fail(e.to_string()))?;
        Ok(Self { config, first_stage, condition_stage })
    }
}

/// What the reference's scripts sample with.
const TOP_K: usize = 100;

/// The permuter of a class name of the reference.
fn order(class: &str) -> Option<Order> {
    Some(match class {
        "Identity" => Order::Identity,
        "Subsample" => Order::Subsample,
        "ZCurve" => Order::ZCurve,
        "SpiralOut" => Order::SpiralOut,
        "SpiralIn" => Order::SpiralIn,
        "Random" => Order::Random,
        "AlternateParsing" => Order::AlternateParsing,
        _ => return None,
    })
}

/// `cond_stage_config` and what belongs to it.
struct Stage<'a> {
    params: &'a Params,
    data: &'a Value,
    names: Option<&'a [String]>,
}

impl Stage<'_> {
    fn read(
        &self,
        first_stage: &VqConfig,
    ) -> std::result::Result<(ConditionConfig, Option<VqConfig>), String> {
        let start = || ConditionConfig::Start(StartCondition { token: self.params.sos_token });
        if self.params.unconditional {
            return Ok((start(), None));
        }
        match &self.params.cond_stage_config {
            Value::String(word) if word == "__is_unconditional__" => Ok((start(), None)),
            Value::String(word) if word == "__is_first_stage__" => {
                Ok((self.grid(first_stage, None)?, None))
            }
            Value::String(word) => Err(format!("cond_stage_config {word:?} is not known")),
            value => {
                let node = Node::deserialize(value)
                    .map_err(|e| format!("cond_stage_config names no target: {e}"))?;
                self.node(&node)
            }
        }
    }

    fn node(
        &self,
        node: &Node,
    ) -> std::result::Result<(ConditionConfig, Option<VqConfig>), String> {
        let number = |key: &str, default: u64| node.params[key].as_u64().unwrap_or(default);
        Ok(match node.class() {
            "Labelator" => (self.classes(number("n_classes", 0) as usize)?, None),
            "SOSProvider" => {
                let token = u32::try_from(number("sos_token", 0)).map_err(|e| e.to_string())?;
                (ConditionConfig::Start(StartCondition { token }), None)
            }
            "CoordStage" => {
                let levels = u32::try_from(number("n_embed", 1024)).map_err(|e| e.to_string())?;
                let coordinates =
                    Coordinates { levels, factor: number("down_factor", 16) as usize };
                let condition = CoordinateCondition { coordinates, offset: 0 };
                (ConditionConfig::Coordinates(condition), None)
            }
            "DummyCondStage" => (self.layout()?, None),
            _ => {
                let codec = VqConfig::from_reference(&node.target, &node.params)
                    .map_err(|e| format!("cond_stage_config: {e}"))?;
                let stage = StageRef::at("condition_stage", UNKNOWN);
                (self.grid(&codec, Some(stage))?, Some(codec))
            }
        })
    }

    fn classes(&self, count: usize) -> std::result::Result<ConditionConfig, String> {
        if count == 0 || count > MAX_CLASSES {
            return Err(format!("{count} classes are none that can be drawn"));
        }
        let names = match self.names {
            Some(names) if names.len() == count => names.to_vec(),
            Some(names) => {
                return Err(format!("{} names were given for {count} classes", names.len()));
            }
            None => (0..count).map(|class| class.to_string()).collect(),
        };
        Ok(ConditionConfig::Class(ClassCondition { names, offset: 0, null: None }))
    }

    fn grid(
        &self,
        codec: &VqConfig,
        stage: Option<StageRef>,
    ) -> std::result::Result<ConditionConfig, String> {
        // `-1` is the reference's way to say "as it is".
        let downsample = self.params.downsample_cond_size.and_then(|n| usize::try_from(n).ok());
        let side = downsample.unwrap_or(codec.resolution) / codec.factor();
        let input = match (self.params.cond_stage_key.as_str(), codec.in_channels) {
            ("segmentation", _) => GridInput::Segmentation,
            ("depth", _) => GridInput::Depth,
            ("edge" | "edges", _) => GridInput::Edges,
            (_, 1) => GridInput::Depth,
            (_, 3) => GridInput::Image,
            _ => GridInput::Segmentation,
        };
        Ok(ConditionConfig::Grid(GridCondition {
            input,
            codec: stage,
            grid: [side, side],
            offset: 0,
            downsample,
            labels: None,
            null: None,
        }))
    }

    /// A scene model: its tokens are made by the data set, so that is where their
    /// meaning is written.
    fn layout(&self) -> std::result::Result<ConditionConfig, String> {
        let places = match self.params.cond_stage_key.as_str() {
            "objects_bbox" => Places::Boxes,
            "objects_center_points" => Places::Centres,
            key => return Err(format!("condition {key:?} has no tokens here")),
        };
        let Some(names) = self.names else {
            return Err("a scene model does not state its categories: give a file with their \
                        names, one a line, in their order (--class-names)"
                .to_owned());
        };
        let data = ["train", "validation"]
            .iter()
            .map(|part| &self.data["params"][part]["params"])
            .find(|params| params["no_tokens"].is_u64())
            .ok_or("data.params.train.params has no no_tokens, which a scene model needs")?;
        let flag = |key: &str| data[key].as_bool().unwrap_or(false);
        let number = |key: &str, default| data[key].as_u64().unwrap_or(default);
        let tokens = LayoutTokens {
            categories: u32::try_from(names.len()).map_err(|e| e.to_string())?,
            max_objects: number("max_objects_per_image", 30) as usize,
            vocabulary: u32::try_from(number("no_tokens", 0)).map_err(|e| e.to_string())?,
            places,
            encode_crop: flag("encode_crop"),
            tell_groups: flag("use_group_parameter"),
            tell_attributes: flag("use_additional_parameters"),
        };
        Ok(ConditionConfig::Layout(LayoutCondition { names: names.to_vec(), tokens, offset: 0 }))
    }
}

#[cfg(test)]
#[path = "reference/tests.rs"]
mod tests;
