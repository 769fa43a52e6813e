//! Models from a hub: `owner/name[@revision][:file]` to files on disk.
//!
//! - [`HubId`]: the name, checked;
//! - [`Settings`]: endpoint, cache, token, offline, as the environment says
//!   (`HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_HUB_OFFLINE`);
//! - [`Cache`]: the cache of the Hugging Face tools, which Python shares;
//! - [`Hub`]: lists the files of a repository and downloads them: resumed where it
//!   stopped, never waiting for ever, and checked against the SHA-256 that the hub
//!   states.
//!
//! The crate is apart from `checkpoints` so that what reads hostile files has no
//! network. What a hub answers is not trusted either: nothing that it says becomes
//! a path before it is checked, and it cannot make us write more than it announced.
//!
//! The transport is `ureq`. The crate `hf-hub` was looked at first: its small
//! version (0.5) has no timeouts, checks no hash, takes paths from the answers and
//! panics on unexpected ones; its new one (1.0) brings 240 crates.

mod cache;
mod client;
mod download;
mod error;
mod id;
mod settings;

pub use cache::{Cache, CachedRepo};
pub use client::{Listing, RemoteFile};
pub use download::{Fetched, Hub, Progress};
pub use error::{Error, Result};
pub use id::HubId;
pub use settings::Settings;
