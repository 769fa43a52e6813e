//! A transformer of ours as a project file of the reference's.
//!
//! The reference's condition tokens are codes, classes or pictures as they are numbered;
//! ours have rows of their own behind the codes (`offset`). Where a number can be shifted
//! it is, and the comments in the file say how to ask for it.

use std::fmt::Write;

use candle_core::{Device, Tensor};
use cond_transformer::{GptConfig, Order, Places};
use vq_autoencoder::VqConfig;

use crate::error::{Error, Result};
use crate::families::{codec_node, indented};
use crate::transformer_config::{
    ClassCondition, ConditionConfig, GridInput, LayoutCondition, TransformerConfig,
};

/// How many classes are named in the comments, and how long a name may be.
const NAMED: usize = 2000;
const NAME_CHARS: usize = 80;

/// What stands in `cond_stage_config` for a condition whose codec is the first stage.
pub(super) const IS_FIRST_STAGE: &str = "__is_first_stage__";

/// The project file of the transformer `gpt` of `config` over `first`; `condition` is the
/// codec of its condition as it is written, where it is written at all.
///
/// # Errors
/// When the reference has no such condition.
pub(super) fn project_file(
    config: &TransformerConfig,
    gpt: &GptConfig,
    first: &VqConfig,
    condition: Option<&VqConfig>,
) -> Result<String> {
    let mut front = Front::of(config, condition)?;
    let GptConfig { vocab_size, block_size, n_layer, n_head, n_embd, n_unmasked } = gpt;
    if config.codes < *vocab_size {
        let _ = writeln!(
            front.comment,
            "# Codes are tokens 0 to {}; the others stand for conditions and are never learned\n\
             # as codes. Sample with top_k, so that none is drawn.",
            config.codes - 1
        );
    }
    let permuter = match (config.permuter, config.grid) {
        (Order::Identity, _) => String::new(),
        (order, [h, w]) => format!(
            "    permuter_config:\n      target: taming.modules.transformer.permuter.{order:?}\n\
             \x20     params:\n        H: {h}\n        W: {w}\n"
        ),
    };
    Ok(format!(
        "{comment}model:\n  base_learning_rate: 4.5e-06\n\
         \x20 target: taming.models.cond_transformer.Net2NetTransformer\n  params:\n\
         \x20   first_stage_key: image\n{settings}    transformer_config:\n\
         \x20     target: taming.modules.transformer.mingpt.GPT\n      params:\n\
         \x20       vocab_size: {vocab_size}\n        block_size: {block_size}\n\
         \x20       n_layer: {n_layer}\n        n_head: {n_head}\n        n_embd: {n_embd}\n\
         \x20       n_unmasked: {n_unmasked}\n{permuter}    first_stage_config:\n{first}\
         \x20   cond_stage_config:{stage}{data}",
        comment = front.comment,
        settings = indented(&front.settings, 4),
        first = indented(&codec_node(first, front.first_stage_too)?, 6),
        stage = front.stage,
        data = front.data,
    ))
}

/// The parts of a project file that say what comes in front of the codes.
#[derive(Default)]
struct Front {
    comment: String,
    /// Lines of `params`.
    settings: String,
    /// What follows `cond_stage_config:`.
    stage: String,
    /// What follows the model.
    data: String,
    /// Whether the first stage is the condition's codec, too.
    first_stage_too: bool,
}

impl Front {
    fn of(config: &TransformerConfig, condition: Option<&VqConfig>) -> Result<Self> {
        let refuse = |reason: &str| {
            Err(Error::Target {
                target: "taming.models.cond_transformer.Net2NetTransformer".to_owned(),
                reason: format!("{reason}; keep the model in our own format"),
            })
        };
        let node = |text: &str| format!("\n{}", indented(text, 6));
        Ok(match &config.condition {
            ConditionConfig::Start(start) => Self {
                settings: format!("sos_token: {}\n", start.token),
                stage: " __is_unconditional__\n".to_owned(),
                ..Self::default()
            },
            ConditionConfig::Class(classes) => {
                let tokens =
                    classes.token(classes.names.len()).max(classes.null.map_or(0, |n| n + 1));
                Self {
                    comment: class_comment(classes),
                    settings: "cond_stage_key: class_label\n".to_owned(),
                    stage: node(&format!(
                        "target: taming.modules.util.Labelator\nparams:\n  n_classes: {tokens}\n"
                    )),
                    ..Self::default()
                }
            }
            ConditionConfig::Grid(grid) => {
                let key = match grid.input {
                    GridInput::Segmentation => "segmentation",
                    GridInput::Depth => "depth",
                    GridInput::Edges => "edges",
                    GridInput::Image => "image",
                };
                let mut settings = format!("cond_stage_key: {key}\n");
                if let Some(side) = grid.downsample {
                    let _ = writeln!(settings, "downsample_cond_size: {side}");
                }
                let stage = match condition {
                    Some(codec) => node(&codec_node(codec, true)?),
                    None => format!(" {IS_FIRST_STAGE}\n"),
                };
                Self { settings, stage, first_stage_too: condition.is_none(), ..Self::default() }
            }
            ConditionConfig::Coordinates(condition) if condition.offset == 0 => Self {
                settings: "cond_stage_key: coord\n".to_owned(),
                stage: node(&format!(
                    "target: taming.modules.misc.coord.CoordStage\nparams:\n  n_embed: {}\n  \
                     down_factor: {}\n",
                    condition.coordinates.levels, condition.coordinates.factor
                )),
                ..Self::default()
            },
            ConditionConfig::Layout(condition) if condition.offset == 0 => layout(condition, &node),
            ConditionConfig::Coordinates(_) | ConditionConfig::Layout(_) => {
                return refuse(
                    "the tokens of this model's condition stand behind those of the codes, and the \
                     reference's begin at 0",
                );
            }
            ConditionConfig::Text(_) | ConditionConfig::Caption(_) => {
                return refuse("it has no condition of text");
            }
        })
    }
}

/// Which label stands for which class.
fn class_comment(classes: &ClassCondition) -> String {
    if classes.offset == 0 {
        return String::new();
    }
    let mut text = format!(
        "# The reference has no offset of classes: class n is the label {} + n.\n",
        classes.offset
    );
    for (class, name) in classes.names.iter().enumerate().take(NAMED) {
        let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS).collect();
        let _ = writeln!(text, "#   {}: {name}", classes.token(class));
    }
    if let Some(null) = classes.null {
        let _ = writeln!(text, "#   {null}: no class");
    }
    text
}

fn layout(condition: &LayoutCondition, node: &dyn Fn(&str) -> String) -> Front {
    let key = match condition.tokens.places {
        Places::Boxes => "objects_bbox",
        Places::Centres => "objects_center_points",
    };
    let tokens = &condition.tokens;
    Front {
        comment: format!(
            "# {} categories, whose names the reference takes from its data set.\n",
            condition.names.len()
        ),
        settings: format!("cond_stage_key: {key}\n"),
        stage: node(&format!(
            "target: taming.models.dummy_cond_stage.DummyCondStage\nparams:\n  \
             conditional_key: {key}\n"
        )),
        data: format!(
            "data:\n  params:\n    train:\n      params:\n        no_tokens: {}\n        \
             max_objects_per_image: {}\n        encode_crop: {}\n        use_group_parameter: {}\n\
             \x20       use_additional_parameters: {}\n",
            tokens.vocabulary,
            tokens.max_objects,
            tokens.encode_crop,
            tokens.tell_groups,
            tokens.tell_attributes
        ),
        ..Front::default()
    }
}

/// The tensors that the reference's classes keep besides weights, so that its
/// `load_state_dict` misses none: causal masks, and the order of the codes.
///
/// # Errors
/// When the order is not defined for the grid.
pub(super) fn buffers(
    config: &TransformerConfig,
    gpt: &GptConfig,
) -> Result<Vec<(String, Tensor)>> {
    let n = gpt.block_size;
    let seen = (0..n * n).map(|at| {
        let (row, column) = (at / n, at % n);
        let open = row < gpt.n_unmasked && column < gpt.n_unmasked;
        f32::from(u8::from(column <= row || open))
    });
    let mask = Tensor::from_vec(seen.collect(), (1, 1, n, n), &Device::Cpu)?;
    let masks = (0..gpt.n_layer)
        .map(|block| (format!("transformer.blocks.{block}.attn.mask"), mask.clone()));
    let mut buffers: Vec<_> = masks.collect();
    if config.permuter != Order::Identity {
        let permuter = config.permuter()?;
        for (name, order) in [("forward", permuter.forward()), ("backward", permuter.backward())] {
            let order: Vec<i64> = order.iter().map(|&place| place.into()).collect();
            let order = Tensor::new(order, &Device::Cpu)?;
            buffers.push((format!("permuter.{name}_shuffle_idx"), order));
        }
    }
    Ok(buffers)
}
