//! Conditions out of files and words.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image_data::{Limits, load_rgb};
use pipeline::{ConditionConfig, Front, Generator, PictureCondition};

use crate::args::ConditionArgs;
use crate::exit::NotFound;
use crate::session::Session;
use crate::table::shown;

/// What one or more pictures are drawn under, before their size is known.
pub enum Subject {
    /// Nothing, for models that need nothing.
    Nothing,
    /// A class.
    Class(String),
    /// A text.
    Text(String),
    /// A text that a text encoder has read.
    Caption(String, Front),
    /// A file that is no picture.
    File(PathBuf),
    /// A picture or map.
    Picture(PathBuf, PictureCondition),
}

impl Subject {
    /// The subjects that the arguments name, files and texts read.
    ///
    /// # Errors
    /// When a file is not there or not what the model takes, or the text encoder cannot be
    /// loaded.
    pub fn all(
        session: &Session,
        generator: &Generator,
        args: &ConditionArgs,
        text_encoder: Option<&Path>,
    ) -> Result<Vec<Self>> {
        if !args.class.is_empty() {
            return Ok(classes(generator, &args.class));
        }
        if let (Some(place), false) = (text_encoder, args.prompt.is_empty()) {
            return captions(session, generator, &args.prompt, place);
        }
        if !args.prompt.is_empty() {
            return Ok(args.prompt.iter().cloned().map(Self::Text).collect());
        }
        if args.condition.is_empty() {
            return Ok(vec![Self::Nothing]);
        }
        args.condition.iter().map(|path| Self::of_file(generator, path)).collect()
    }

    /// The subject of one file.
    ///
    /// # Errors
    /// When it is not there, or no picture where the model takes one.
    pub fn of_file(generator: &Generator, path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(NotFound(vec![path.to_path_buf()]).into());
        }
        Ok(match generator.condition_input() {
            None => Self::File(path.to_path_buf()),
            Some(input) => Self::Picture(path.to_path_buf(), PictureCondition::read(path, input)?),
        })
    }

    /// What it is called in file names and for people.
    pub fn name(&self, generator: &Generator) -> String {
        match self {
            Self::Nothing => "picture".to_owned(),
            Self::Class(class) => class_name(generator, class),
            Self::Text(text) | Self::Caption(text, _) => text.clone(),
            Self::File(path) | Self::Picture(path, _) => path
                .file_stem()
                .map_or_else(|| "picture".to_owned(), |stem| stem.to_string_lossy().into_owned()),
        }
    }

    /// The size that it gives the picture, if it gives one.
    ///
    /// # Errors
    /// When it has none that can be told.
    pub fn size(&self, generator: &Generator) -> Result<Option<(u32, u32)>> {
        match self {
            Self::Picture(_, picture) if !generator.condition_is_scaled() => {
                Ok(Some(picture.size()?))
            }
            _ => Ok(None),
        }
    }

    /// The condition for a picture of `size`; a map that has another is scaled to it
    /// where `fit`.
    ///
    /// # Errors
    /// When it does not fit the model.
    pub fn front(&self, generator: &Generator, size: (u32, u32), fit: bool) -> Result<Front> {
        let grid = generator.grid_of(size)?;
        match self {
            Self::Nothing => Ok(generator.front_of_nothing(grid)?),
            Self::Class(class) => Ok(generator.front_of_class(class)?),
            Self::Text(text) => Ok(generator.front_of_text(text)?),
            Self::Caption(_, front) => Ok(front.clone()),
            Self::File(path) => file_front(generator, path, grid),
            Self::Picture(path, picture) => {
                let named = || path.display().to_string();
                let picture = match fit && !generator.condition_is_scaled() {
                    true => picture.fit(size).with_context(named)?,
                    false => picture.clone(),
                };
                generator.front_of_picture(&picture, grid).with_context(named)
            }
        }
    }
}

/// Texts read by the text encoder at `place`, which is gone when it has read them all: it is
/// as large as the model.
fn captions(
    session: &Session,
    generator: &Generator,
    texts: &[String],
    place: &Path,
) -> Result<Vec<Subject>> {
    let encoder = session.load_text_encoder(place, generator)?;
    let read = |text: &String| {
        let (front, left_out) = generator.front_of_caption(&encoder, text)?;
        if left_out > 0 {
            session.note(&format!(
                "the model takes no more of a prompt than its start: the last {left_out} tokens \
                 are left out of {:?}",
                shown(text)
            ));
        }
        Ok(Subject::Caption(text.clone(), front))
    };
    texts.iter().map(read).collect()
}

fn classes(generator: &Generator, given: &[String]) -> Vec<Subject> {
    match &generator.config().condition {
        ConditionConfig::Class(classes) if given == ["all"] && classes.find("all").is_err() => {
            (0..classes.names.len()).map(|class| Subject::Class(class.to_string())).collect()
        }
        _ => given.iter().cloned().map(Subject::Class).collect(),
    }
}

/// The first synonym of the class that `text` means.
fn class_name(generator: &Generator, text: &str) -> String {
    let ConditionConfig::Class(classes) = &generator.config().condition else {
        return text.to_owned();
    };
    let name = classes.find(text).ok().and_then(|class| classes.names.get(class));
    let name = name.map_or(text, String::as_str);
    let name = name.split(',').next().unwrap_or(name).trim();
    match name.parse::<u64>() {
        Ok(_) => format!("class {name}"),
        Err(_) => name.to_owned(),
    }
}

fn file_front(generator: &Generator, path: &Path, drawn: (usize, usize)) -> Result<Front> {
    match path.extension().and_then(|e| e.to_str()).map(str::to_lowercase).as_deref() {
        Some("json") => {
            let text = std::fs::read(path).with_context(|| path.display().to_string())?;
            Ok(generator.front_of_layout(&text, path, drawn)?)
        }
        Some("safetensors") => Ok(generator.front_of_captions(path)?),
        _ => {
            // Whatever it is, it is not this model's condition; say what is.
            load_rgb(path, &Limits::default())?;
            let grid = (generator.config().grid[0], generator.config().grid[1]);
            let picture = PictureCondition::Picture(pipeline::RgbImage::new(1, 1));
            match generator.front_of_picture(&picture, grid) {
                Err(error) => Err(error.into()),
                Ok(_) => bail!("{}: no condition of this model", path.display()),
            }
        }
    }
}
