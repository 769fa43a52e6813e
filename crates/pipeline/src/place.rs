//! From what a user calls a model to a path on this machine.

use std::path::{Path, PathBuf};

use hub::{Fetched, Hub, HubId, Progress, Settings};

use crate::error::{Error, Result};

/// How files of weights end, best first.
const WEIGHTS: [&str; 5] = [".safetensors", ".ckpt", ".pt", ".pth", ".bin"];
/// Weights of a folder with a `config.json`, best first.
const FOLDER_WEIGHTS: [&str; 7] = [
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// What a model folder may have besides.
const COMPANIONS: [&str; 2] = ["README.md", "tokenizer.json"];
/// The folders of a transformer's stages.
const STAGES: [&str; 2] = ["first_stage", "condition_stage"];
/// Where diffusers' pipelines keep their codec.
const PARTS: [&str; 2] = ["vqvae", "vqmodel"];
/// How many names a message lists.
const SHOWN: usize = 8;

/// A model that was brought here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The folder or file to load.
    pub path: PathBuf,
    /// Everything that belongs to it.
    pub files: Vec<Fetched>,
}

/// Whether `model` is not here and could be `owner/name[@revision][:file]`.
pub fn hub_id(model: &Path) -> Option<HubId> {
    if model.symlink_metadata().is_ok() {
        return None;
    }
    model.to_str()?.parse().ok()
}

/// Where `model` is: itself, or where the hub's files are in the cache, downloaded
/// if they are not there yet. `progress` hears of downloads.
///
/// # Errors
/// [`Error::NotFound`] when it is neither here nor a name on the hub;
/// [`Error::NotHere`] when the hub cannot help.
pub fn locate(model: &Path, progress: &mut dyn Progress) -> Result<PathBuf> {
    if model.symlink_metadata().is_ok() {
        return Ok(model.to_path_buf());
    }
    let Some(id) = hub_id(model) else {
        return Err(Error::NotFound { path: model.to_path_buf() });
    };
    let settings = Settings::from_env().map_err(Error::Hub)?;
    let not_here = |source| Error::NotHere { path: model.to_path_buf(), source };
    match pull(&Hub::new(settings), &id, progress) {
        Ok(pulled) => Ok(pulled.path),
        Err(Error::Hub(source)) => Err(not_here(source)),
        Err(other) => Err(other),
    }
}

/// Brings a model from `hub` into its cache: the file that `id` names, or the files
/// of a model that the repository, or the folder that `id` names, is.
///
/// # Errors
/// When the hub does not have it or does not answer; when the repository holds no
/// model, or several files of weights, which are named.
pub fn pull(hub: &Hub, id: &HubId, progress: &mut dyn Progress) -> Result<Pulled> {
    let listing = hub.listing(id).map_err(Error::Hub)?;
    let choice = choose(&listing.files, id.file().unwrap_or_default())
        .map_err(|reason| Error::model(id.to_string(), reason))?;
    let mut files = Vec::with_capacity(choice.files.len());
    let mut fetch = |file: &str| hub.fetch(id, file, progress).map_err(Error::Hub);
    for file in &choice.files {
        files.push(fetch(file)?);
    }
    // An index names its shards; they lie beside it.
    for index in choice.files.iter().filter(|file| file.ends_with(".index.json")) {
        for shard in listing.files.iter().filter(|file| is_shard(index, file)) {
            files.push(fetch(shard)?);
        }
    }
    let snapshot = hub.cache().path(&id.without_file());
    let snapshot = snapshot.ok_or_else(|| Error::model(id.to_string(), "is not in the cache"))?;
    Ok(Pulled { path: snapshot.join(choice.root), files })
}

/// What of a repository is needed.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    files: Vec<String>,
    /// What to load, relative to the repository.
    root: String,
}

/// Whether `file` is one of the files that `index` is the index of, by their names:
/// `model-00001-of-00002.safetensors` of `model.safetensors.index.json`. The same weights in
/// another format may lie beside.
fn is_shard(index: &str, file: &str) -> bool {
    let name = index.strip_suffix(".index.json").unwrap_or(index);
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    let number = file.strip_prefix(stem).and_then(|rest| rest.strip_suffix(ending));
    number.is_some_and(|number| {
        number.starts_with('-') && number.contains("-of-") && !number.contains('/')
    })
}

fn is_weights(name: &str) -> bool {
    WEIGHTS.iter().any(|ending| name.ends_with(ending))
}

/// The files of the model at `place` among all `files`.
fn choose(files: &[String], place: &str) -> std::result::Result<Choice, String> {
    if files.iter().any(|file| file == place) {
        return Ok(Choice { files: vec![place.to_owned()], root: place.to_owned() });
    }
    let prefix = if place.is_empty() { String::new() } else { format!("{place}/") };
    let inside: Vec<&str> = files.iter().filter_map(|file| file.strip_prefix(&prefix)).collect();
    if inside.is_empty() {
        return Err(format!(
            "has no {place:?}; it has {}",
            shown(files.iter().map(String::as_str))
        ));
    }
    let has = |name: &str| inside.contains(&name);
    let folder = |names: Vec<&str>, root: &str| Choice {
        files: names.into_iter().map(|name| format!("{prefix}{name}")).collect(),
        root: format!("{prefix}{root}"),
    };
    if has("config.json")
        && let Some(weights) = FOLDER_WEIGHTS.into_iter().find(|name| has(name))
    {
        let mut names = vec!["config.json", weights];
        names.extend(COMPANIONS.into_iter().filter(|name| has(name)));
        names.extend(inside.iter().copied().filter(|name| {
            let stage = name.split_once('/').filter(|(folder, _)| STAGES.contains(folder));
            stage.is_some_and(|(_, name)| !name.contains('/'))
        }));
        return Ok(folder(names, ""));
    }
    let projects = inside.iter().copied().filter(|name| {
        name.strip_prefix("configs/").is_some_and(|name| name.ends_with("-project.yaml"))
    });
    let mut names: Vec<&str> = projects.collect();
    if !names.is_empty() && has("checkpoints/last.ckpt") {
        names.push("checkpoints/last.ckpt");
        return Ok(folder(names, ""));
    }
    for part in PARTS {
        if has(&format!("{part}/config.json")) {
            return choose(files, &format!("{prefix}{part}"));
        }
    }
    let weights: Vec<&str> = inside.iter().copied().filter(|name| is_weights(name)).collect();
    match weights.as_slice() {
        [one] => Ok(folder(vec![one], one)),
        [] => Err(format!("holds no weights; it has {}", shown(inside.iter().copied()))),
        several => Err(format!(
            "holds several files of weights; name one behind a `:`, of {}",
            shown(several.iter().copied())
        )),
    }
}

fn shown<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!("{}{more}", names[..names.len().min(SHOWN)].join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(files: &[&str], place: &str) -> std::result::Result<(Vec<String>, String), String> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        choose(&files, place).map(|choice| (choice.files, choice.root))
    }

    #[test]
    fn shards_are_those_of_their_index() {
        let index = "t5/model.safetensors.index.json";
        for (file, is) in [
            ("t5/model-00001-of-00002.safetensors", true),
            ("t5/model-00002-of-00002.safetensors", true),
            ("t5/pytorch_model-00001-of-00002.bin", false),
            ("t5/model.safetensors", false),
            ("model-00001-of-00002.safetensors", false),
            ("t5/model-1/x-of-2.safetensors", false),
            ("t5/model.fp16-00001-of-00002.safetensors", false),
        ] {
            assert_eq!(is_shard(index, file), is, "{file}");
        }
    }

    #[test]
    fn what_a_repository_is() {
        let ours = ["config.json", "model.safetensors", "README.md", "x.png", "model.bin"];
        for (files, place, expected, root) in [
            (&ours[..], "", &["config.json", "model.safetensors", "README.md"][..], ""),
            (&ours, "model.bin", &["model.bin"], "model.bin"),
            (
                &["config.json", "model.safetensors", "first_stage/config.json", "other/x.ckpt"],
                "",
                &["config.json", "model.safetensors", "first_stage/config.json"],
                "",
            ),
            (
                &[
                    "model_index.json",
                    "unet/config.json",
                    "vqvae/config.json",
                    "vqvae/diffusion_pytorch_model.safetensors",
                ],
                "",
                &["vqvae/config.json", "vqvae/diffusion_pytorch_model.safetensors"],
                "vqvae/",
            ),
            (
                &[
                    "a/configs/x-project.yaml",
                    "a/configs/x-lightning.yaml",
                    "a/checkpoints/last.ckpt",
                ],
                "a",
                &["a/configs/x-project.yaml", "a/checkpoints/last.ckpt"],
                "a/",
            ),
            (&["vq_ds16_c2i.pt", "README.md"], "", &["vq_ds16_c2i.pt"], "vq_ds16_c2i.pt"),
        ] {
            let expected = expected.iter().map(|file| (*file).to_owned()).collect();
            assert_eq!(choice(files, place), Ok((expected, root.to_owned())), "{files:?}");
        }
        for (files, place, part) in [
            (&["a.pt", "b.pt"][..], "", "name one"),
            (&["README.md"], "", "no weights"),
            (&["a.pt"], "b.pt", "has no \"b.pt\"; it has a.pt"),
        ] {
            let error = choice(files, place).err().unwrap_or_default();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn what_is_here_is_not_on_the_hub() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        assert_eq!(hub_id(dir.path()), None);
        assert_eq!(hub_id(Path::new("nowhere")), None);
        assert!(hub_id(Path::new("owner/name@v1:a.pt")).is_some());
        let nowhere = locate(Path::new("nowhere"), &mut |_: &str, _, _| ());
        assert!(matches!(nowhere, Err(Error::NotFound { .. })));
        Ok(())
    }
}
