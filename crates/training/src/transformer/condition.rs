//! What comes in front of the codes, and its rows in the vocabulary.
//!
//! Codes are tokens `0..K`. Condition tokens have rows of their own behind them (the
//! reference gives class 3 and code 3 the same row), then comes the token of no
//! condition.

mod labels;
mod text;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use pipeline::{ClassCondition, ConditionConfig, GridCondition, StartCondition, TextCondition};

pub use labels::Labels;

use self::text::Text;
use super::config::ConditionSetting;
use super::grids::GridCodec;

/// How a picture's name becomes the tokens in front of its codes.
pub struct Conditioning {
    condition: Condition,
    labels: Labels,
    /// What the model folder says of it.
    pub config: ConditionConfig,
    /// Tokens in front of the codes.
    pub positions: usize,
    /// Rows of the table that codes and condition share.
    pub vocabulary: usize,
    /// The tokens of no condition.
    pub null: Option<Vec<u32>>,
}

/// The kinds of condition.
pub enum Condition {
    /// A start token.
    Start(u32),
    /// A class.
    Class(ClassCondition),
    /// Text.
    Text(TextCondition, Box<Text>),
    /// The codes of a map or picture.
    Grid(GridCondition),
}

impl Conditioning {
    /// What `setting` asks for in front of `codes` kinds of codes, for pictures
    /// with these `names`. `apart`: whether classes have a table of their own
    /// (LlamaGen). A tokenizer is trained once and kept in `tokenizer`. `grids`: the codec
    /// of conditions that are grids, and the size of these.
    ///
    /// # Errors
    /// If there is nothing to make conditions from.
    pub fn new(
        setting: &ConditionSetting,
        labels: Labels,
        names: &BTreeSet<&str>,
        codes: usize,
        apart: bool,
        tokenizer: &Path,
        grids: Option<(&GridCodec, (usize, usize))>,
    ) -> Result<Self> {
        let offset = u32::try_from(codes).context("a codebook of more than 2^32 codes")?;
        match setting {
            ConditionSetting::None {} if apart => {
                // A class that every picture has.
                let condition =
                    ClassCondition { names: vec!["picture".to_owned()], offset: 0, null: Some(1) };
                Ok(Self::of_class(condition, Labels::all("picture"), codes))
            }
            ConditionSetting::None {} => Ok(Self {
                condition: Condition::Start(offset),
                labels,
                config: ConditionConfig::Start(StartCondition { token: offset }),
                positions: 1,
                vocabulary: codes + 1,
                null: None,
            }),
            ConditionSetting::Class { .. } => {
                let classes: BTreeSet<_> =
                    names.iter().map(|name| labels.class(name)).collect::<Result<_>>()?;
                let names: Vec<_> = classes.into_iter().map(str::to_owned).collect();
                ensure!(
                    names.len() > 1,
                    "all pictures are of one class ({}): put them into a folder for each class, \
                     or set condition.kind=none",
                    names.join(", ")
                );
                let offset = if apart { 0 } else { offset };
                let null = Some(offset + names.len() as u32);
                let vocabulary = if apart { codes } else { codes + names.len() + 1 };
                let condition = ClassCondition { names, offset, null };
                Ok(Self::of_class(condition, labels, vocabulary))
            }
            ConditionSetting::Text { vocabulary, tokens, .. } => {
                let captions = names.iter().flat_map(|name| labels.captions(name));
                let text = Text::open_or_train(tokenizer, captions, *vocabulary)?;
                let pad = offset + text.vocabulary() as u32;
                let condition = TextCondition { tokens: *tokens, offset, pad, null: Some(pad) };
                Ok(Self {
                    config: ConditionConfig::Text(condition.clone()),
                    positions: *tokens,
                    vocabulary: codes + text.vocabulary() + 1,
                    null: Some(vec![pad; *tokens]),
                    condition: Condition::Text(condition, Box::new(text)),
                    labels,
                })
            }
            ConditionSetting::Grid { .. } => {
                let grids = grids.context(
                    "data holds codes, and none of the maps that stand in front of them: give the \
                     folder of pictures and maps",
                )?;
                Ok(Self::of_grid(grids, labels, codes, offset))
            }
        }
    }

    fn of_grid(
        (grids, size): (&GridCodec, (usize, usize)),
        labels: Labels,
        codes: usize,
        offset: u32,
    ) -> Self {
        let kinds = grids.codec().describe().codes;
        let null = offset + kinds as u32;
        let condition = grids.condition(size, offset, null);
        let positions = size.0 * size.1;
        Self {
            config: ConditionConfig::Grid(condition.clone()),
            condition: Condition::Grid(condition),
            positions,
            vocabulary: codes + kinds + 1,
            null: Some(vec![null; positions]),
            labels,
        }
    }

    fn of_class(condition: ClassCondition, labels: Labels, vocabulary: usize) -> Self {
        Self {
            config: ConditionConfig::Class(condition.clone()),
            positions: 1,
            vocabulary,
            null: condition.null.map(|null| vec![null]),
            condition: Condition::Class(condition),
            labels,
        }
    }

    /// The kind.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// The content of `tokenizer.json`, for text.
    ///
    /// # Errors
    /// If the tokenizer cannot be written down.
    pub fn tokenizer(&self) -> Result<Option<String>> {
        match &self.condition {
            Condition::Text(_, text) => Ok(Some(text.to_json()?)),
            _ => Ok(None),
        }
    }

    /// The token sequences that may stand in front of the picture `name`.
    ///
    /// # Errors
    /// If it has no class or caption.
    pub fn choices(&self, name: &str) -> Result<Vec<Vec<u32>>> {
        match &self.condition {
            Condition::Start(token) => Ok(vec![vec![*token]]),
            Condition::Class(condition) => {
                let class = self.labels.class(name)?;
                match condition.names.iter().position(|known| known == class) {
                    Some(number) => Ok(vec![vec![condition.token(number)]]),
                    None => bail!("{name}: no picture to learn from is of its class {class}"),
                }
            }
            Condition::Text(condition, text) => {
                let mut choices = Vec::new();
                for caption in self.labels.captions(name) {
                    let mut ids = text.encode(caption)?;
                    ids.truncate(condition.tokens);
                    choices.extend(condition.tokens(&ids));
                }
                choices.sort();
                choices.dedup();
                ensure!(!choices.is_empty(), "{name} has no caption in captions.jsonl");
                Ok(choices)
            }
            Condition::Grid(_) => bail!("{name} is without the codes of its condition"),
        }
    }

    /// The tokens of the codes of a condition.
    pub fn tokens(&self, codes: &[u32]) -> Vec<u32> {
        match &self.condition {
            Condition::Grid(condition) => codes.iter().map(|c| c + condition.offset).collect(),
            _ => codes.to_vec(),
        }
    }

    /// What people call the condition of the picture `name`, for previews.
    pub fn describe(&self, name: &str) -> String {
        match &self.condition {
            Condition::Start(_) => String::new(),
            Condition::Grid(_) => name.to_owned(),
            Condition::Class(_) => self.labels.class(name).unwrap_or_default().to_owned(),
            Condition::Text(..) => self.labels.captions(name).next().unwrap_or_default().to_owned(),
        }
    }
}
