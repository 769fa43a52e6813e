//! What the environment says, under the names of the Hugging Face tools.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the hub may say nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// How often a download that fails is tried again.
const RETRIES: u32 = 3;
/// The longest token.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Where the hub and the cache are.
#[derive(Clone)]
pub struct Settings {
    /// The hub, without a `/` at its end.
    pub endpoint: String,
    /// The folder that holds `models--owner--name`.
    pub cache: PathBuf,
    /// Sent to the hub, and to nobody that it redirects to.
    pub token: Option<String>,
    /// Never ask the hub.
    pub offline: bool,
    /// How long to wait for a connection.
    pub connect: Duration,
    /// How long the hub may say nothing.
    pub silence: Duration,
    /// How often a download that fails is tried again, from where it stopped.
    pub retries: u32,
}

impl Settings {
    /// `HF_ENDPOINT`, `HF_HUB_CACHE` or `HF_HOME/hub` or `~/.cache/huggingface/hub`,
    /// `HF_TOKEN` or the file `HF_TOKEN_PATH` or `HF_HOME/token`, `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// [`Error::NoHome`].
    pub fn from_env() -> Result<Self> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let home = set("HF_HOME").map(PathBuf::from).or_else(|| {
            let caches = set("XDG_CACHE_HOME").map(PathBuf::from);
            let caches = caches.or_else(|| env::home_dir().map(|home| home.join(".cache")));
            caches.map(|caches| caches.join("huggingface"))
        });
        let cache = set("HF_HUB_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| home.as_ref().map(|home| home.join("hub")));
        let token_file = set("HF_TOKEN_PATH").map(PathBuf::from);
        let token_file = token_file.or_else(|| home.map(|home| home.join("token")));
        let stored = || {
            let path = token_file?;
            let small = std::fs::metadata(&path).ok()?.len() <= MAX_TOKEN_BYTES;
            small.then(|| std::fs::read_to_string(&path).ok())?
        };
        let token = set("HF_TOKEN").or_else(stored).map(|token| token.trim().to_owned());
        let offline = set("HF_HUB_OFFLINE");
        Ok(Self {
            endpoint: set("HF_ENDPOINT").as_deref().unwrap_or(DEFAULT_ENDPOINT).to_owned(),
            cache: cache.ok_or(Error::NoHome)?,
            token: token.filter(|token| !token.is_empty()),
            offline: offline.is_some_and(|value| is_yes(&value)),
            connect: CONNECT,
            silence: SILENCE,
            retries: RETRIES,
        })
    }
}

fn is_yes(value: &str) -> bool {
    ["1", "true", "yes", "on"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

impl std::fmt::Debug for Settings {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}
