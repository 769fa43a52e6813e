//! What comes in front of the codes, as a configuration says it.

use cond_transformer::{Coordinates, LayoutTokens};
use serde::{Deserialize, Serialize};

use super::StageRef;

/// What comes in front of the codes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ConditionConfig {
    /// Nothing but a start token: an unconditional model.
    Start(StartCondition),
    /// One of a list of classes.
    Class(ClassCondition),
    /// The code grid of a picture: a segmentation or depth map, edges, a smaller
    /// picture, any picture.
    Grid(GridCondition),
    /// Where each part lies in the whole picture.
    Coordinates(CoordinateCondition),
    /// Boxes or centres of objects.
    Layout(LayoutCondition),
    /// Text, as tokens of the folder's `tokenizer.json`.
    Text(TextCondition),
    /// Text, as embeddings of a language model (LlamaGen).
    Caption(CaptionCondition),
}

/// `kind: start`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct StartCondition {
    /// The token.
    pub token: u32,
}

/// `kind: class`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ClassCondition {
    /// The classes by number. Synonyms are separated by commas.
    pub names: Vec<String>,
    /// The token of class 0; class n is token `offset + n`.
    #[serde(default)]
    pub offset: u32,
    /// The token of no class, of a model that was trained for guidance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<u32>,
}

/// `kind: grid`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct GridCondition {
    /// What kind of picture it is.
    pub input: GridInput,
    /// The codec of the picture; none: the first stage itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<StageRef>,
    /// Height and width of its code grid in training.
    pub grid: [usize; 2],
    /// The token of its code 0.
    #[serde(default)]
    pub offset: u32,
    /// The picture is first scaled to a square of this side, by the nearest pixel
    /// (the reference's `downsample_cond_size`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downsample: Option<usize>,
    /// Names of the labels of a segmentation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// The token that fills the grid of no condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<u32>,
}

/// What kind of picture the condition is.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum GridInput {
    /// A label a pixel.
    Segmentation,
    /// A distance a pixel.
    Depth,
    /// Edges of a picture.
    Edges,
    /// A picture.
    Image,
}

/// `kind: coordinates`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct CoordinateCondition {
    /// Levels and factor; the factor is the first stage's.
    #[serde(flatten)]
    pub coordinates: Coordinates,
    /// The token of coordinate 0.
    #[serde(default)]
    pub offset: u32,
}

/// `kind: layout`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct LayoutCondition {
    /// The categories by number.
    pub names: Vec<String>,
    /// How layouts become tokens.
    #[serde(flatten)]
    pub tokens: LayoutTokens,
    /// The token of its token 0.
    #[serde(default)]
    pub offset: u32,
}

/// `kind: text`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TextCondition {
    /// Positions of the text. Shorter ones are filled up behind.
    pub tokens: usize,
    /// The token of the tokenizer's id 0.
    pub offset: u32,
    /// The token that fills up.
    pub pad: u32,
    /// The token whose repetition stands for no text, of a model that was
    /// trained for guidance; usually `pad`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<u32>,
}

/// `kind: caption`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct CaptionCondition {
    /// The language model, by name: whose embeddings these are.
    #[serde(default)]
    pub encoder: String,
}

impl ClassCondition {
    /// The token of class `class`.
    pub fn token(&self, class: usize) -> u32 {
        self.offset.saturating_add(u32::try_from(class).unwrap_or(u32::MAX))
    }
}

impl TextCondition {
    /// The tokens of a text with the tokenizer's `ids`, `None` if they are more
    /// than there are positions for.
    pub fn tokens(&self, ids: &[u32]) -> Option<Vec<u32>> {
        if ids.len() > self.tokens {
            return None;
        }
        let mut tokens: Vec<u32> = ids.iter().map(|id| self.offset.saturating_add(*id)).collect();
        tokens.resize(self.tokens, self.pad);
        Some(tokens)
    }
}

type Check = Result<(), String>;

impl ConditionConfig {
    /// Its name in `config.json`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Class(_) => "class",
            Self::Grid(_) => "grid",
            Self::Coordinates(_) => "coordinates",
            Self::Layout(_) => "layout",
            Self::Text(_) => "text",
            Self::Caption(_) => "caption",
        }
    }

    /// The token of no condition, of a model that was trained for guidance.
    pub(crate) fn null(&self) -> Option<u32> {
        match self {
            Self::Class(condition) => condition.null,
            Self::Grid(condition) => condition.null,
            Self::Text(condition) => condition.null,
            _ => None,
        }
    }

    /// Whether the model can draw without its condition, and so be guided. Where captions
    /// are the condition, its network has an embedding of none.
    pub(crate) fn can_be_absent(&self) -> bool {
        self.null().is_some() || matches!(self, Self::Caption(_))
    }

    /// Positions in front of a code grid of the training size `grid`; of a
    /// caption, its network knows.
    pub(super) fn positions(&self, grid: [usize; 2]) -> usize {
        match self {
            Self::Start(_) | Self::Class(_) => 1,
            Self::Grid(condition) => condition.grid[0].saturating_mul(condition.grid[1]),
            Self::Coordinates(_) => grid[0] * grid[1],
            Self::Layout(condition) => condition.tokens.positions(),
            Self::Text(condition) => condition.tokens,
            Self::Caption(_) => 0,
        }
    }

    pub(super) fn validate(&self, vocabulary: usize) -> Check {
        match self {
            Self::Class(condition) if condition.names.is_empty() => {
                Err("condition.names is empty; a model without classes has the kind \"start\""
                    .to_owned())
            }
            Self::Grid(condition) => {
                if condition.grid.contains(&0) || condition.grid.iter().any(|&n| n > 1 << 16) {
                    return Err(format!("condition.grid {:?} is no grid", condition.grid));
                }
                if condition.downsample.is_some_and(|side| side == 0 || side > 1 << 16) {
                    return Err("condition.downsample is no side of a picture".to_owned());
                }
                condition.codec.as_ref().map_or(Ok(()), |codec| codec.validate("condition.codec"))
            }
            Self::Coordinates(condition) if condition.coordinates.factor == 0 => {
                Err("condition.factor is 0".to_owned())
            }
            Self::Layout(condition) => {
                condition.tokens.validate().map_err(|e| format!("condition: {e}"))?;
                let categories = condition.tokens.categories as usize;
                if condition.names.len() != categories {
                    return Err(format!(
                        "condition.names has {} names for {categories} categories",
                        condition.names.len()
                    ));
                }
                Ok(())
            }
            Self::Text(condition)
                if condition.tokens == 0 || condition.tokens > vocabulary.max(1 << 16) =>
            {
                Err(format!("condition.tokens {} is no length of a text", condition.tokens))
            }
            _ => Ok(()),
        }
    }

    /// Checks that every token that is known from the configuration alone has a
    /// row in a table of `vocabulary`.
    pub(super) fn check_tokens(&self, vocabulary: usize) -> Check {
        let largest: u64 = match self {
            Self::Start(condition) => condition.token.into(),
            Self::Class(condition) => {
                u64::from(condition.offset) + condition.names.len() as u64 - 1
            }
            Self::Grid(condition) => condition.offset.into(),
            Self::Coordinates(condition) => {
                u64::from(condition.offset) + u64::from(condition.coordinates.levels)
            }
            Self::Layout(condition) => {
                u64::from(condition.offset) + u64::from(condition.tokens.vocabulary) - 1
            }
            Self::Text(condition) => condition.offset.max(condition.pad).into(),
            Self::Caption(_) => return Ok(()),
        };
        let largest = largest.max(self.null().unwrap_or(0).into());
        if largest >= vocabulary as u64 {
            return Err(format!(
                "the condition's tokens reach {largest}, the vocabulary has {vocabulary}"
            ));
        }
        Ok(())
    }
}
