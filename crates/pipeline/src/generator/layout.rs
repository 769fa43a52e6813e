//! A layout of objects, out of JSON.

use std::path::Path;

use cond_transformer::{Object, Rect, Scene};
use serde::Deserialize;

use super::{Front, Generator};
use crate::error::{Error, Result};
use crate::transformer_config::{ClassCondition, ConditionConfig, LayoutCondition};

/// The largest layout file.
const MAX_BYTES: usize = 1 << 20;

/// A layout as people write it: `{"objects": [...], "crop": [0, 0, 1, 1]}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LayoutFile {
    objects: Vec<ObjectLine>,
    /// Left, top, width, height, in parts of the whole picture; what is drawn.
    #[serde(default)]
    crop: Option<[f64; 4]>,
}

/// One object: its category by name or number, its box as left, top, width, height
/// in parts of the picture.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObjectLine {
    category: Category,
    #[serde(rename = "box")]
    place: [f64; 4],
    #[serde(default)]
    group: bool,
    #[serde(default)]
    occluded: bool,
    #[serde(default)]
    depiction: bool,
    #[serde(default)]
    inside: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Category {
    Number(u32),
    Name(String),
}

fn rect([x, y, width, height]: [f64; 4]) -> Rect {
    Rect { x, y, width, height }
}

impl Generator {
    /// The condition of a layout: JSON such as
    /// `{"objects": [{"category": "dog", "box": [0.1, 0.2, 0.5, 0.5]}]}`, read from
    /// `path`, for a picture of `grid` = (rows, columns).
    ///
    /// # Errors
    /// When it is no such JSON, names a category that the model does not have (with
    /// the nearest), or has more objects than the model is told of.
    pub fn front_of_layout(&self, text: &[u8], path: &Path, grid: (usize, usize)) -> Result<Front> {
        let ConditionConfig::Layout(condition) = &self.config.condition else {
            return Err(self.wrong_kind("a layout"));
        };
        let (scene, tokens) = scene_of_layout(condition, text)
            .map_err(|reason| Error::Condition(format!("{}: {reason}", path.display())))?;
        Ok(match [grid.0, grid.1] == self.config.grid {
            true => Front::Tokens(tokens),
            false => Front::Scene(scene),
        })
    }
}

/// What is drawn, and the tokens of all of it.
fn scene_of_layout(
    condition: &LayoutCondition,
    text: &[u8],
) -> std::result::Result<(Scene, Vec<u32>), String> {
    if text.len() > MAX_BYTES {
        return Err(format!("{} bytes are no layout", text.len()));
    }
    let file: LayoutFile = serde_json::from_slice(text).map_err(|e| {
        format!(
            "not a layout ({{\"objects\": [{{\"category\": NAME, \"box\": [left, top, width, \
             height]}}]}}, in parts of the picture): {e}"
        )
    })?;
    if file.objects.len() > condition.tokens.max_objects {
        return Err(format!(
            "{} objects, and this model is told of {} at most",
            file.objects.len(),
            condition.tokens.max_objects
        ));
    }
    let names = ClassCondition { names: condition.names.clone(), offset: 0, null: None };
    let objects = file.objects.into_iter().map(|line| {
        let category = match line.category {
            Category::Number(number) => number,
            Category::Name(name) => u32::try_from(names.find(&name)?).map_err(|e| e.to_string())?,
        };
        let ObjectLine { place, group, occluded, depiction, inside, .. } = line;
        Ok(Object { category, place: rect(place), group, occluded, depiction, inside })
    });
    let objects = objects.collect::<std::result::Result<Vec<_>, String>>()?;
    let crop = file.crop.map_or(Rect::FULL, rect);
    let tokens =
        condition.tokens.encode(&objects, crop, false).map_err(|error| error.to_string())?;
    let tokens = tokens.into_iter().map(|token| token + condition.offset).collect();
    Ok((Scene { objects, crop }, tokens))
}

#[cfg(test)]
mod tests {
    use cond_transformer::{LayoutTokens, Places};

    use super::*;

    #[test]
    fn names_and_numbers_and_what_is_wrong() -> anyhow::Result<()> {
        let tokens = LayoutTokens {
            categories: 2,
            max_objects: 2,
            vocabulary: 26,
            places: Places::Boxes,
            encode_crop: false,
            tell_groups: false,
            tell_attributes: false,
        };
        let names = ["cat", "dog"].map(str::to_owned).to_vec();
        let condition = LayoutCondition { names, tokens, offset: 100 };
        let read =
            |text: &str| scene_of_layout(&condition, text.as_bytes()).map(|(_, tokens)| tokens);
        let by_name = read(r#"{"objects": [{"category": "dog", "box": [0, 0, 1, 1]}]}"#);
        assert_eq!(by_name, Ok(vec![101, 100, 124, 125, 125, 125]));
        assert_eq!(by_name, read(r#"{"objects": [{"category": 1, "box": [0, 0, 1, 1]}]}"#));
        for (text, words) in [
            ("[", "not a layout"),
            (r#"{"objects": [{"category": "dig", "box": [0, 0, 1, 1]}]}"#, "\"dog\""),
            (r#"{"objects": [{"category": 7, "box": [0, 0, 1, 1]}]}"#, "2 categories"),
            (r#"{"objects": [{"category": 1, "box": [0, 0, 1, 1], "x": 1}]}"#, "x"),
            (r#"{"objects": [], "crop": [0, 0, 0, 1]}"#, "no area"),
        ] {
            let error = read(text).err().unwrap_or_default();
            assert!(error.contains(words), "{words:?}: {error}");
        }
        let many = format!(
            r#"{{"objects": [{}]}}"#,
            [r#"{"category": 1, "box": [0, 0, 1, 1]}"#; 3].join(",")
        );
        assert!(read(&many).is_err_and(|e| e.contains("2 at most")));
        Ok(())
    }
}
