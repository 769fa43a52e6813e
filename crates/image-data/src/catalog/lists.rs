//! Text files that list pictures.

use std::path::{Component, Path, PathBuf, absolute};

use crate::{Error, Result, has_image_extension};

/// Extensions tried for a stem, in this order.
const STEM_EXTENSIONS: [&str; 4] = ["jpg", "png", "webp", "jpeg"];

/// A line of a list.
#[derive(Debug)]
pub(super) struct Listed {
    /// The picture.
    pub path: PathBuf,
    /// Its class, where the line says one.
    pub class: Option<String>,
}

/// The list of a dataset's folder: a line with a slash is a file of the folder, another
/// is a stem, `<home>/<stem>` with the extension of a picture. Paths are relative to
/// `dir`; none leads out of it.
pub(super) fn read_own(dir: &Path, list: &Path, home: &str) -> Result<Vec<Listed>> {
    let (mut listed, mut any_stem, mut first_missing) = (Vec::new(), false, None);
    for (number, line) in lines(&read_text(list)?) {
        let (line, class) = split_class(line);
        let error = |reason: String| Error::List { path: list.to_path_buf(), line: number, reason };
        let path = Path::new(line);
        if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(error(format!(
                "{line:?} leads out of the folder; a list of files anywhere is given itself, \
                 data={}",
                list.display()
            )));
        }
        if line.contains('/') {
            listed.push(Listed { path: path.to_path_buf(), class });
            continue;
        }
        let file = find_stem(dir, line, home);
        any_stem |= file.is_some();
        if file.is_none() && first_missing.is_none() {
            let reason = format!("no picture {home}/{line}.jpg, .png or .webp in the folder");
            first_missing = Some(error(reason));
        }
        // Reading it will name the file that is missing, and not hold up the others.
        let path = file.unwrap_or_else(|| Path::new(home).join(format!("{line}.jpg")));
        listed.push(Listed { path, class });
    }
    match first_missing {
        // Not one of them: the folder is of another kind.
        Some(error) if !any_stem => Err(error),
        _ => Ok(listed),
    }
}

/// A list that stands for itself (the reference's `CustomTrain`): each line is a path,
/// absolute, or relative to the list's folder, or else to the working directory. Paths are
/// relative to the list's folder where the lines are.
pub(super) fn read_free(list: &Path) -> Result<Vec<Listed>> {
    let home = list.parent().unwrap_or(Path::new(""));
    let text = read_text(list)?;
    let resolve = |(_, line)| {
        let (line, class) = split_class(line);
        let line = Path::new(line);
        let path = match home.join(line).exists() {
            true => None,
            false => Some(line).filter(|path| path.exists()).and_then(|path| absolute(path).ok()),
        };
        Listed { path: path.unwrap_or_else(|| line.to_path_buf()), class }
    };
    Ok(lines(&text).map(resolve).collect())
}

/// The lists that hold out what `list` does not: `val.txt` beside `train.txt`, and
/// names made alike.
pub(super) fn held_out_list(list: &Path) -> Option<PathBuf> {
    let name = list.file_name()?.to_str()?;
    if !name.contains("train") {
        return None;
    }
    let others = ["val", "validation", "valid", "test"];
    others
        .iter()
        .map(|other| list.with_file_name(name.replace("train", other)))
        .find(|p| p.is_file())
}

fn read_text(list: &Path) -> Result<String> {
    std::fs::read_to_string(list).map_err(|source| {
        let path = list.to_path_buf();
        Error::Io { path, action: "read the list", source }
    })
}

/// The lines that say something, with their numbers from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    lines.map(|(i, line)| (i + 1, line.trim())).filter(|(_, line)| !line.is_empty())
}

/// A class after the path: anything after a tab, or a number after a space that follows
/// a picture's name (the lists of Caffe and of ImageNet's tools).
fn split_class(line: &str) -> (&str, Option<String>) {
    if let Some((path, class)) = line.split_once('\t') {
        return (path.trim_end(), Some(class.trim().to_string()));
    }
    match line.rsplit_once(' ') {
        Some((path, class))
            if has_image_extension(Path::new(path.trim_end())) && class.parse::<u32>().is_ok() =>
        {
            (path.trim_end(), Some(class.to_string()))
        }
        _ => (line, None),
    }
}

/// The file that a line without a slash means.
fn find_stem(dir: &Path, stem: &str, home: &str) -> Option<PathBuf> {
    let home = Path::new(home);
    let exists = |path: &PathBuf| dir.join(path).is_file();
    let with_extension = STEM_EXTENSIONS.iter().map(|e| home.join(format!("{stem}.{e}")));
    // Lists of flat folders give whole file names.
    let whole = [home.join(stem), PathBuf::from(stem)];
    with_extension.chain(whole.into_iter().filter(|path| has_image_extension(path))).find(exists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_may_follow_a_path() {
        assert_eq!(split_class("a/b.jpg\tred rose"), ("a/b.jpg", Some("red rose".to_string())));
        assert_eq!(split_class("a b/c 7.JPEG 12"), ("a b/c 7.JPEG", Some("12".to_string())));
        for line in ["a b/c 7.jpg", "picture 12", "x.jpg twelve", "x.jpg"] {
            assert_eq!(split_class(line), (line, None));
        }
    }

    #[test]
    fn the_other_list_is_found_by_name() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        for name in ["xx_train.txt", "xx_test.txt", "all.txt"] {
            std::fs::write(at(name), "")?;
        }
        assert_eq!(held_out_list(&at("xx_train.txt")), Some(at("xx_test.txt")));
        assert_eq!(held_out_list(&at("all.txt")), None);
        Ok(())
    }
}
