//! A layout of objects as condition tokens (`conditional_builder`).

use serde::{Deserialize, Serialize};

use crate::gpt::limits;
use crate::{Error, Result};

/// A rectangle in parts of the picture: left, top, width, height.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct Rect {
    /// Left edge, `[0, 1]`.
    pub x: f64,
    /// Top edge, `[0, 1]`.
    pub y: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl Rect {
    /// The whole picture.
    pub const FULL: Self = Self { x: 0.0, y: 0.0, width: 1.0, height: 1.0 };

    fn overlaps(&self, other: &Self) -> bool {
        let right = (self.x + self.width).min(other.x + other.width);
        let bottom = (self.y + self.height).min(other.y + other.height);
        let across = (right - self.x.max(other.x)).max(0.0);
        let down = (bottom - self.y.max(other.y)).max(0.0);
        across * down > 0.0
    }

    fn flipped(&self) -> Self {
        Self { x: 1.0 - (self.x + self.width), ..*self }
    }

    /// In parts of `crop`, cut at its edges.
    fn within(&self, crop: &Self) -> Self {
        let x = ((self.x - crop.x) / crop.width).clamp(0.0, 1.0);
        let y = ((self.y - crop.y) / crop.height).clamp(0.0, 1.0);
        let width = (self.width / crop.width).min(1.0 - x);
        let height = (self.height / crop.height).min(1.0 - y);
        Self { x, y, width, height }
    }

    fn is_sane(&self) -> bool {
        [self.x, self.y, self.width, self.height].iter().all(|value| value.is_finite())
            && self.width >= 0.0
            && self.height >= 0.0
    }
}

/// One object of a layout.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Object {
    /// Its category, below [`LayoutTokens::categories`].
    pub category: u32,
    /// Where it is, in parts of the whole picture.
    pub place: Rect,
    /// Stands for several of its kind.
    #[serde(default)]
    pub group: bool,
    /// Partly behind something.
    #[serde(default)]
    pub occluded: bool,
    /// A drawing, statue or toy of it.
    #[serde(default)]
    pub depiction: bool,
    /// Seen from inside.
    #[serde(default)]
    pub inside: bool,
}

/// What is told of an object's place.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Places {
    /// Top left and bottom right corner: three tokens an object.
    Boxes,
    /// The centre: two tokens an object.
    Centres,
}

/// How layouts become tokens, as a scene model was trained with.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct LayoutTokens {
    /// Categories there are.
    pub categories: u32,
    /// Objects told of; fewer are filled up, more are cut off.
    pub max_objects: usize,
    /// The model's vocabulary; its last token stands for nothing.
    pub vocabulary: u32,
    /// Corners, or centres.
    pub places: Places,
    /// Two more tokens tell the crop, and places stay those of the whole picture.
    pub encode_crop: bool,
    /// Whether groups are told.
    pub tell_groups: bool,
    /// Whether occlusion, depiction and inside are told.
    pub tell_attributes: bool,
}

/// What tokens tell: categories with attributes and places, and the crop.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// Objects, places rounded to the token grid; a centre is a box without size.
    pub objects: Vec<Object>,
    /// The crop, if it is told.
    pub crop: Option<Rect>,
}

const GROUP: u32 = 1;
const OCCLUDED: u32 = 2;
const DEPICTION: u32 = 4;
const INSIDE: u32 = 8;

impl LayoutTokens {
    /// Checks sizes, and that every token is in the vocabulary.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::Config { what: "layout tokens", why });
        if self.vocabulary < 4 || self.vocabulary as usize > limits::VOCABULARY {
            return refuse(format!("vocabulary {} is no vocabulary", self.vocabulary));
        }
        if self.max_objects > limits::CONTEXT {
            return refuse(format!("max_objects {} is beyond any context", self.max_objects));
        }
        let told = (GROUP * u32::from(self.tell_groups))
            | ((OCCLUDED | DEPICTION | INSIDE) * u32::from(self.tell_attributes));
        let tokens = u64::from(self.categories) * u64::from(told + 1);
        if self.categories == 0 || tokens >= u64::from(self.vocabulary) {
            return refuse(format!(
                "{} categories with their attributes take {tokens} of {} tokens",
                self.categories, self.vocabulary
            ));
        }
        Ok(())
    }

    /// Tokens of a layout.
    pub fn positions(&self) -> usize {
        self.max_objects * self.tokens_of_object() + if self.encode_crop { 2 } else { 0 }
    }

    /// The token of nothing.
    pub fn none(&self) -> u32 {
        self.vocabulary - 1
    }

    /// The tokens of `objects` as seen in `crop`, mirrored if `flip`. Objects
    /// outside the crop are left out. (In training, the reference shuffles objects.)
    ///
    /// # Errors
    /// If a category or a rectangle is out of bounds.
    pub fn encode(&self, objects: &[Object], crop: Rect, flip: bool) -> Result<Vec<u32>> {
        self.validate()?;
        if !crop.is_sane() || crop.width == 0.0 || crop.height == 0.0 {
            return Err(Error::Layout(format!("crop {crop:?} has no area")));
        }
        let frame = if self.encode_crop { Rect::FULL } else { crop };
        let mut tokens = Vec::with_capacity(self.positions());
        for object in objects.iter().take(self.max_objects) {
            if object.category >= self.categories || !object.place.is_sane() {
                return Err(Error::Layout(format!(
                    "object {object:?} is not one of {} categories or has no place",
                    self.categories
                )));
            }
            if !object.place.overlaps(&crop) {
                continue;
            }
            let place = object.place.within(&frame);
            let place = if flip { place.flipped() } else { place };
            tokens.push(object.category + self.categories * self.attributes(object));
            match self.places {
                Places::Boxes => tokens.extend(self.corners(&place)?),
                Places::Centres => tokens
                    .push(self.point(place.x + place.width / 2.0, place.y + place.height / 2.0)?),
            }
        }
        tokens.resize(self.max_objects * self.tokens_of_object(), self.none());
        if self.encode_crop {
            tokens.extend(self.corners(&if flip { crop.flipped() } else { crop })?);
        }
        Ok(tokens)
    }

    /// What `tokens` tell.
    ///
    /// # Errors
    /// If there are more or fewer than [`Self::positions`], or one is out of bounds.
    pub fn decode(&self, tokens: &[u32]) -> Result<Layout> {
        self.validate()?;
        if tokens.len() != self.positions() || tokens.iter().any(|&t| t >= self.vocabulary) {
            return Err(Error::Layout(format!(
                "{} tokens; a layout has {} below {}",
                tokens.len(),
                self.positions(),
                self.vocabulary
            )));
        }
        let (objects, crop) = tokens.split_at(self.max_objects * self.tokens_of_object());
        let objects = objects
            .chunks(self.tokens_of_object())
            .filter(|object| object[0] != self.none())
            .map(|object| self.object(object))
            .collect();
        let crop = match crop {
            [start, end] => Some(self.between(*start, *end)),
            _ => None,
        };
        Ok(Layout { objects, crop })
    }

    fn tokens_of_object(&self) -> usize {
        match self.places {
            Places::Boxes => 3,
            Places::Centres => 2,
        }
    }

    /// Steps of a coordinate: a point is one token on a grid of that side.
    fn sections(&self) -> u32 {
        self.vocabulary.isqrt()
    }

    fn attributes(&self, object: &Object) -> u32 {
        let mut attributes = 0;
        if self.tell_groups {
            attributes |= GROUP * u32::from(object.group);
        }
        if self.tell_attributes {
            attributes |= OCCLUDED * u32::from(object.occluded);
            attributes |= DEPICTION * u32::from(object.depiction);
            attributes |= INSIDE * u32::from(object.inside);
        }
        attributes
    }

    fn point(&self, x: f64, y: f64) -> Result<u32> {
        let last = f64::from(self.sections() - 1);
        let (x_step, y_step) = ((x * last).round_ties_even(), (y * last).round_ties_even());
        if !(0.0..=last).contains(&x_step) || !(0.0..=last).contains(&y_step) {
            return Err(Error::Layout(format!("point ({x}, {y}) is outside the picture")));
        }
        Ok(y_step as u32 * self.sections() + x_step as u32)
    }

    fn corners(&self, place: &Rect) -> Result<[u32; 2]> {
        let end = (place.x + place.width, place.y + place.height);
        Ok([self.point(place.x, place.y)?, self.point(end.0, end.1)?])
    }

    /// The point of a token, in parts of the picture.
    fn coordinates(&self, token: u32) -> (f64, f64) {
        let last = f64::from(self.sections() - 1);
        (f64::from(token % self.sections()) / last, f64::from(token / self.sections()) / last)
    }

    fn between(&self, start: u32, end: u32) -> Rect {
        let ((x, y), (right, bottom)) = (self.coordinates(start), self.coordinates(end));
        Rect { x, y, width: right - x, height: bottom - y }
    }

    fn object(&self, tokens: &[u32]) -> Object {
        let attributes = tokens[0] / self.categories;
        let place = self.between(tokens[1], tokens[tokens.len() - 1]);
        Object {
            category: tokens[0] % self.categories,
            place,
            group: attributes & GROUP != 0,
            occluded: attributes & OCCLUDED != 0,
            depiction: attributes & DEPICTION != 0,
            inside: attributes & INSIDE != 0,
        }
    }
}
