//! `models`: what is in the cache of the hub, and what should be.

use std::path::Path;

use anyhow::{Context, Result};
use pipeline::hub::{Cache, Hub, HubId, Settings};
use serde_json::json;

use crate::args::ModelsCommand;
use crate::download_bar::DownloadBar;
use crate::exit::Outcome;
use crate::report::print_line;
use crate::session::Session;
use crate::table::{Column, Table};

const MIB: f64 = (1_u64 << 20) as f64;
/// How much of a commit is shown.
const SHORT_COMMIT: usize = 12;

/// Does what `command` says.
///
/// # Errors
/// When a name is none, or the hub or the cache does not answer.
pub fn run(session: &Session, command: &ModelsCommand) -> Result<Outcome> {
    let settings = Settings::from_env()?;
    let cache = Cache::new(&settings.cache);
    match command {
        ModelsCommand::List => list(session, &cache),
        ModelsCommand::Pull { models } => {
            let hub = Hub::new(settings);
            models.iter().try_for_each(|model| pull(session, &hub, model))?;
            Ok(Outcome::Done)
        }
        ModelsCommand::Path { model } => {
            let id: HubId = model.parse()?;
            let Some(path) = cache.path(&id) else {
                let folder = cache.folder().display();
                eprintln!(
                    "synth-cli: {id} is not in the cache {folder}; get it with `models pull`"
                );
                return Ok(Outcome::Nothing);
            };
            tell(session, &id, &path);
            Ok(Outcome::Done)
        }
        ModelsCommand::Remove { models } => remove(session, &cache, models),
    }
}

fn tell(session: &Session, id: &HubId, path: &Path) {
    if session.json {
        print_line(&json!({ "type": "model", "id": id.to_string(), "path": path }).to_string());
    } else {
        print_line(&path.display().to_string());
    }
}

fn list(session: &Session, cache: &Cache) -> Result<Outcome> {
    let repos = cache.list()?;
    if repos.is_empty() {
        session.note(&format!("the cache {} has no models", cache.folder().display()));
        return Ok(Outcome::Nothing);
    }
    let longest = repos.iter().map(|repo| repo.id.repo().len()).max().unwrap_or(0);
    let table = Table::new(vec![
        Column::text("model", longest),
        Column::number("MiB", 9),
        Column::number("files", 5),
        Column::text("commit", SHORT_COMMIT),
    ]);
    if !session.json {
        print_line(&table.header());
    }
    for repo in &repos {
        if session.json {
            let snapshots: Vec<_> = repo
                .snapshots
                .iter()
                .map(|(commit, files)| json!({ "commit": commit, "files": files }))
                .collect();
            let line = json!({
                "type": "model",
                "id": repo.id.repo(),
                "bytes": repo.bytes,
                "folder": repo.folder,
                "snapshots": snapshots,
            });
            print_line(&line.to_string());
            continue;
        }
        for (commit, files) in &repo.snapshots {
            print_line(&table.line([
                repo.id.repo(),
                format!("{:.1}", repo.bytes as f64 / MIB),
                files.to_string(),
                commit[..SHORT_COMMIT.min(commit.len())].to_owned(),
            ]));
        }
    }
    Ok(Outcome::Done)
}

fn pull(session: &Session, hub: &Hub, model: &str) -> Result<()> {
    let id: HubId = model.parse()?;
    let mut bar = DownloadBar::new(session.quiet);
    let pulled = pipeline::pull(hub, &id, &mut bar).with_context(|| format!("cannot pull {id}"))?;
    drop(bar);
    if session.json {
        let files: Vec<_> = pulled
            .files
            .iter()
            .map(|file| json!({ "path": file.path, "sha256": file.sha256, "commit": file.commit }))
            .collect();
        let line = json!({
            "type": "model", "id": id.to_string(), "path": pulled.path, "files": files,
        });
        print_line(&line.to_string());
    } else {
        print_line(&pulled.path.display().to_string());
    }
    Ok(())
}

fn remove(session: &Session, cache: &Cache, models: &[String]) -> Result<Outcome> {
    let ids = models.iter().map(|model| model.parse()).collect::<Result<Vec<HubId>, _>>()?;
    let mut outcome = Outcome::Nothing;
    for id in ids {
        if cache.remove(&id)? {
            session.note(&format!("removed {}", id.repo()));
            outcome = Outcome::Done;
        } else {
            eprintln!("synth-cli: {} is not in the cache", id.repo());
        }
    }
    Ok(outcome)
}
