//! What a user gives as a condition, as the model sees it.

use candle_core::{Device, Tensor};
use codebook::CodeGrid;
use cond_transformer::{Conditions, Coordinates, Scene, Scenes, WindowConditions};
use serde::{Deserialize, Serialize};

use super::Generator;
use crate::error::{Error, Result};
use crate::transformer_config::{Architecture, ConditionConfig};

/// How much of a prompt a message shows.
const SHOWN_CHARS: usize = 60;

/// The condition of one picture, encoded: everything that a model needs of it, so
/// that with a seed it draws the same again without the files it came from.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Front {
    /// A class of a model that has a table for them.
    Class(u32),
    /// Tokens of the model's vocabulary, the same wherever a window is.
    Tokens(Vec<u32>),
    /// A grid of tokens as large as what is drawn (or smaller, for a model whose
    /// condition is), row by row.
    Grid {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// The tokens.
        tokens: Vec<u32>,
    },
    /// Objects of a picture larger than what the model was trained on, of which each
    /// window is told what lies in it.
    Scene(Scene),
    /// Embeddings of a caption.
    Caption {
        /// Width of an embedding.
        dim: usize,
        /// One embedding behind the other.
        embeddings: Vec<f32>,
        /// Which of them are there; the others are padding.
        present: Vec<bool>,
    },
}

impl Generator {
    /// The condition of a model that needs none from the user: the start token, the
    /// only class, or the coordinates of a picture of `grid` = (rows, columns).
    ///
    /// # Errors
    /// When the model needs one.
    pub fn front_of_nothing(&self, (rows, columns): (usize, usize)) -> Result<Front> {
        match &self.config.condition {
            ConditionConfig::Start(start) => Ok(Front::Tokens(vec![start.token])),
            ConditionConfig::Class(classes) if classes.names.len() == 1 => self.front_of_class("0"),
            ConditionConfig::Coordinates(condition) => {
                let factor = condition.coordinates.factor;
                let whole = Coordinates::of_picture(rows * factor, columns * factor)?;
                let levels = condition.coordinates.encode(&whole)?.to_vec()?;
                let tokens = levels.into_iter().map(|level| level + condition.offset).collect();
                Ok(Front::Grid { height: rows, width: columns, tokens })
            }
            _ => Err(self.wrong_kind("nothing")),
        }
    }

    /// The condition of a class, by number or name.
    ///
    /// # Errors
    /// When there is no such class (with the nearest name), or the model takes none.
    pub fn front_of_class(&self, class: &str) -> Result<Front> {
        let ConditionConfig::Class(classes) = &self.config.condition else {
            return Err(self.wrong_kind("a class"));
        };
        let class = classes.find(class).map_err(Error::Condition)?;
        Ok(match &self.config.architecture {
            Architecture::Gpt(_) => Front::Tokens(vec![classes.token(class)]),
            Architecture::Llama(_) => Front::Class(classes.token(class)),
        })
    }

    /// The number of the class that `front` is, of a model with classes.
    pub fn class_of(&self, front: &Front) -> Option<u32> {
        match (&self.config.condition, front) {
            (ConditionConfig::Class(classes), Front::Class(token)) => {
                token.checked_sub(classes.offset)
            }
            (ConditionConfig::Class(classes), Front::Tokens(tokens)) => {
                tokens.first()?.checked_sub(classes.offset)
            }
            _ => None,
        }
    }

    /// The condition of a text.
    ///
    /// # Errors
    /// When it is too long, the model has no tokenizer, or takes no text; a text that a text
    /// encoder must read first is for [`Self::front_of_caption`].
    pub fn front_of_text(&self, text: &str) -> Result<Front> {
        let condition = match &self.config.condition {
            ConditionConfig::Text(condition) => condition,
            ConditionConfig::Caption(caption) => return Err(self.no_text_encoder(caption)),
            _ => return Err(self.wrong_kind("a text")),
        };
        let Some(tokenizer) = &self.tokenizer else {
            return Err(Error::model(
                self.about.weights.parent().unwrap_or(&self.about.weights),
                "this model takes text, but its tokenizer.json is not there: get the folder again",
            ));
        };
        let ids = tokenizer.encode(text)?;
        let limit = self.config.architecture.vocabulary();
        let tokens = condition.tokens(&ids).ok_or_else(|| {
            let start: String = text.chars().take(SHOWN_CHARS).collect();
            Error::Condition(format!(
                "the prompt has {} tokens, and this model takes {} at most; shorten it: {start:?}{}",
                ids.len(),
                condition.tokens,
                if start.len() < text.len() { " ..." } else { "" }
            ))
        })?;
        match tokens.iter().find(|&&token| token as usize >= limit) {
            Some(token) => Err(Error::Condition(format!(
                "the tokenizer gives token {token}, the model has {limit}: tokenizer.json is of \
                 another model"
            ))),
            None => Ok(Front::Tokens(tokens)),
        }
    }

    /// The tokens that a text is for the model, as pieces of text; for people.
    ///
    /// # Errors
    /// When the model has no tokenizer.
    pub fn pieces_of_text(&self, text: &str) -> Result<Vec<String>> {
        match &self.tokenizer {
            Some(tokenizer) => Ok(tokenizer.pieces(text)?),
            None => Err(self.wrong_kind("a text")),
        }
    }

    /// What stands for no condition, of the form of `front`, for guidance.
    ///
    /// # Errors
    /// When the model was not trained with any.
    pub fn absent(&self, front: &Front) -> Result<Front> {
        match (front, self.config.condition.null()) {
            (Front::Caption { dim, .. }, _) => {
                let captions = self.conditions(std::slice::from_ref(front))?;
                let absent = self.network.absent_captions(&captions)?;
                let Conditions::Captions { embeddings, present } = absent else {
                    return Err(self.wrong_kind("no caption"));
                };
                let embeddings = embeddings.to_dtype(candle_core::DType::F32)?;
                Ok(Front::Caption {
                    dim: *dim,
                    embeddings: embeddings.flatten_all()?.to_vec1()?,
                    present: present.concat(),
                })
            }
            (Front::Class(_), Some(null)) => Ok(Front::Class(null)),
            (Front::Tokens(tokens), Some(null)) => Ok(Front::Tokens(vec![null; tokens.len()])),
            (Front::Grid { height, width, tokens }, Some(null)) => {
                Ok(Front::Grid { height: *height, width: *width, tokens: vec![null; tokens.len()] })
            }
            (Front::Scene(_), _) | (_, None) => Err(Error::unguided()),
        }
    }

    /// The conditions of a batch in front of a grid of the training size.
    pub(super) fn conditions(&self, fronts: &[Front]) -> Result<Conditions> {
        let device = self.device();
        let mixed = || Error::Condition("conditions of several kinds in one batch".to_owned());
        match fronts.first() {
            Some(Front::Class(_)) => {
                let ids = fronts.iter().map(|front| match front {
                    Front::Class(id) => Ok(*id),
                    _ => Err(mixed()),
                });
                Ok(Conditions::classes(&ids.collect::<Result<Vec<_>>>()?, device)?)
            }
            Some(Front::Caption { dim, .. }) => {
                let (mut all, mut masks) = (Vec::new(), Vec::new());
                for front in fronts {
                    let Front::Caption { embeddings, present, .. } = front else {
                        return Err(mixed());
                    };
                    all.extend_from_slice(embeddings);
                    masks.push(present.clone());
                }
                let positions = masks.first().map_or(0, Vec::len);
                let shape = (fronts.len(), positions, *dim);
                let embeddings = Tensor::from_vec(all, shape, device)?;
                Ok(Conditions::Captions { embeddings, present: masks })
            }
            _ => {
                let tokens = fronts.iter().map(|front| match front {
                    Front::Tokens(tokens) | Front::Grid { tokens, .. } => Ok(tokens.clone()),
                    _ => Err(mixed()),
                });
                Ok(Conditions::tokens(&tokens.collect::<Result<Vec<_>>>()?, device)?)
            }
        }
    }

    /// The conditions of a batch in front of grids of `size` = (rows, columns) that
    /// a window slides over.
    pub(super) fn window_conditions(
        &self,
        fronts: &[Front],
        size: (usize, usize),
    ) -> Result<WindowConditions> {
        match fronts.first() {
            Some(Front::Grid { .. }) => {}
            Some(Front::Scene(_)) => return self.scenes(fronts),
            _ => return Ok(WindowConditions::Fixed(self.conditions(fronts)?)),
        }
        let mut all = Vec::with_capacity(fronts.len() * size.0 * size.1);
        for front in fronts {
            match front {
                Front::Grid { height, width, tokens } if (*height, *width) == size => {
                    all.extend_from_slice(tokens);
                }
                _ => {
                    return Err(Error::Condition(format!(
                        "a condition's grid is not {}x{} like what is drawn",
                        size.0, size.1
                    )));
                }
            }
        }
        let shape = (fronts.len(), size.0, size.1);
        Ok(WindowConditions::Grid(CodeGrid::from_vec(all, shape, &Device::Cpu)?))
    }

    /// The layouts of a batch, of which windows are told their parts.
    fn scenes(&self, fronts: &[Front]) -> Result<WindowConditions> {
        let ConditionConfig::Layout(condition) = &self.config.condition else {
            return Err(self.wrong_kind("a layout"));
        };
        let scenes = fronts.iter().map(|front| match front {
            Front::Scene(scene) => Ok(scene.clone()),
            _ => Err(Error::Condition("conditions of several kinds in one batch".to_owned())),
        });
        Ok(WindowConditions::Scenes(Scenes {
            scenes: scenes.collect::<Result<_>>()?,
            tokens: condition.tokens.clone(),
            offset: condition.offset,
        }))
    }
}
