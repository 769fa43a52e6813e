//! What is asked of the hub, and what its answers are worth.
//!
//! Two questions: `GET /api/models/OWNER/NAME/revision/REV` for the commit and the
//! files, and `HEAD /OWNER/NAME/resolve/REV/FILE` for what a file is. The second's
//! answer may redirect to where the content lies; its own headers say what that is.

use std::io::Read;

use serde::Deserialize;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use crate::cache::is_commit;
use crate::error::{Error, Result};
use crate::id::{HubId, is_path};
use crate::settings::Settings;

/// The largest description of a repository.
const MAX_LISTING_BYTES: u64 = 1 << 24;
/// The most files of a repository.
const MAX_FILES: usize = 20_000;
/// The largest file: beyond every published model.
const MAX_FILE_BYTES: u64 = 1 << 41;
/// The longest ETag.
const MAX_ETAG: usize = 128;
const MAX_REDIRECTS: u32 = 5;

const COMMIT: &str = "x-repo-commit";
const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";

/// The files of a repository at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit that the revision is.
    pub commit: String,
    /// Paths, those that could not be files here left out.
    pub files: Vec<String>,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// The commit that the revision is.
    pub commit: String,
    /// Names the content; the SHA-256 where the hub states it.
    pub etag: String,
    /// Its length, where the hub states it.
    pub bytes: Option<u64>,
}

impl RemoteFile {
    /// The SHA-256 of the content, where the hub states it.
    pub fn sha256(&self) -> Option<&str> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (self.etag.len() == 64 && self.etag.bytes().all(hex)).then_some(self.etag.as_str())
    }
}

#[derive(Deserialize)]
struct ModelInfo {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

pub(crate) struct Client {
    settings: Settings,
    /// Follows redirects; the token goes to the hub alone.
    following: Agent,
    /// Does not.
    plain: Agent,
}

impl Client {
    pub(crate) fn new(settings: Settings) -> Self {
        let config = |redirects| {
            Agent::config_builder()
                .http_status_as_error(false)
                // A secure hub does not send us to an insecure place.
                .https_only(settings.endpoint.starts_with("https://"))
                .max_redirects(redirects)
                .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
                .timeout_connect(Some(settings.connect))
                .timeout_recv_response(Some(settings.silence))
                .timeout_recv_body(Some(settings.silence))
                .user_agent(concat!("synth-cli/", env!("CARGO_PKG_VERSION")))
                .build()
                .new_agent()
        };
        Self { following: config(MAX_REDIRECTS), plain: config(0), settings }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The commit and the files of `id`'s revision.
    pub(crate) fn listing(&self, id: &HubId) -> Result<Listing> {
        let revision = encoded(id.revision(), true);
        let url = format!("{}/api/models/{}/revision/{revision}", self.endpoint(), id.repo());
        let response = self.get(&self.following, &url, id, None)?;
        let mut text = Vec::new();
        response
            .into_body()
            .into_reader()
            .take(MAX_LISTING_BYTES)
            .read_to_end(&mut text)
            .map_err(|e| self.unreachable(id, &e.to_string()))?;
        let info: ModelInfo = serde_json::from_slice(&text)
            .map_err(|e| self.odd(id, format!("a description that is not valid: {e}")))?;
        let files = info.siblings.into_iter().map(|sibling| sibling.rfilename);
        Ok(Listing {
            commit: self.commit(id, &info.sha)?,
            files: files.filter(|path| is_path(path)).take(MAX_FILES).collect(),
        })
    }

    /// What `file` of `id` is.
    pub(crate) fn file(&self, id: &HubId, file: &str) -> Result<RemoteFile> {
        let mut url = self.url(id, id.revision(), file);
        // Redirects within the hub (a repository that was renamed) are followed; one
        // that leaves it is where the content lies.
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.plain.head(&url);
            if let Some(token) = self.settings.token.as_ref() {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let response = request
                .header("accept-encoding", "identity")
                .call()
                .map_err(|e| self.unreachable(id, &e.to_string()))?;
            let headers = response.headers();
            if response.status().is_redirection() && !headers.contains_key(LINKED_ETAG) {
                let target = header(headers, "location").unwrap_or_default();
                let inner = target.starts_with('/') && !target.starts_with("//");
                if !inner {
                    return Err(self.odd(id, "a redirect away from it".to_owned()));
                }
                url = format!("{}{target}", self.origin());
                continue;
            }
            if !response.status().is_redirection() {
                self.check(&response, id)?;
            }
            return self.remote_file(id, headers);
        }
        Err(self.odd(id, "too many redirects".to_owned()))
    }

    fn remote_file(&self, id: &HubId, headers: &HeaderMap) -> Result<RemoteFile> {
        let commit = header(headers, COMMIT)
            .ok_or_else(|| self.odd(id, format!("without saying which commit ({COMMIT})")))?;
        let etag = header(headers, LINKED_ETAG).or_else(|| header(headers, "etag"));
        let etag = etag.unwrap_or_default().trim_start_matches("W/").trim_matches('"').to_owned();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if etag.is_empty() || etag.len() > MAX_ETAG || !etag.bytes().all(plain) {
            return Err(self.odd(id, "without a usable ETag".to_owned()));
        }
        let linked = header(headers, LINKED_SIZE);
        let linked_etag = headers.contains_key(LINKED_ETAG);
        let bytes = linked.or_else(|| header(headers, "content-length").filter(|_| !linked_etag));
        let bytes = bytes.and_then(|text| text.parse::<u64>().ok());
        if bytes.is_some_and(|bytes| bytes > MAX_FILE_BYTES) {
            return Err(self.odd(id, format!("that the file has more than {MAX_FILE_BYTES} bytes")));
        }
        Ok(RemoteFile { commit: self.commit(id, &commit)?, etag, bytes })
    }

    /// The content of `file` at `commit` from byte `start` on: `Ok(None)` when the
    /// hub does not start there.
    pub(crate) fn content(
        &self,
        id: &HubId,
        commit: &str,
        file: &str,
        start: u64,
    ) -> Result<Option<impl Read + use<>>> {
        let url = self.url(id, commit, file);
        let range = (start > 0).then(|| format!("bytes={start}-"));
        let response = self.get(&self.following, &url, id, range.as_deref())?;
        let partial = response.status().as_u16() == 206;
        if start > 0 {
            let at = header(response.headers(), "content-range").unwrap_or_default();
            if !partial || !at.starts_with(&format!("bytes {start}-")) {
                return Ok(None);
            }
        }
        Ok(Some(response.into_body().into_reader()))
    }

    fn get(
        &self,
        agent: &Agent,
        url: &str,
        id: &HubId,
        range: Option<&str>,
    ) -> Result<Response<Body>> {
        let mut request = agent.get(url).header("accept-encoding", "identity");
        if let Some(token) = &self.settings.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let response = request.call().map_err(|e| self.unreachable(id, &e.to_string()))?;
        self.check(&response, id)?;
        Ok(response)
    }

    fn check(&self, response: &Response<Body>, id: &HubId) -> Result<()> {
        let (what, endpoint) = (id.to_string(), self.settings.endpoint.clone());
        let said = header(response.headers(), "x-error-message");
        match response.status().as_u16() {
            200..=299 => Ok(()),
            404 => Err(Error::NotFound { what, endpoint }),
            status @ (401 | 403) => {
                // The hub answers 401 for what does not exist, too, and says so.
                let token = self.settings.token.is_some();
                Err(Error::Denied { what, endpoint, status, token })
            }
            status => {
                let said = said.map(|said| format!(": {said:.200}")).unwrap_or_default();
                Err(Error::Answer { what, endpoint, answer: format!("{status}{said}") })
            }
        }
    }

    fn commit(&self, id: &HubId, commit: &str) -> Result<String> {
        let lower = commit.to_ascii_lowercase();
        if is_commit(&lower) {
            return Ok(lower);
        }
        Err(self.odd(id, format!("with the commit {commit:.80?}, which is none")))
    }

    fn url(&self, id: &HubId, revision: &str, file: &str) -> String {
        let (revision, file) = (encoded(revision, true), encoded(file, false));
        format!("{}/{}/resolve/{revision}/{file}", self.endpoint(), id.repo())
    }

    fn endpoint(&self) -> &str {
        self.settings.endpoint.trim_end_matches('/')
    }

    /// The endpoint without a path: what redirects are relative to.
    fn origin(&self) -> &str {
        let endpoint = self.endpoint();
        let host = endpoint.find("://").map_or(0, |at| at + 3);
        let end = endpoint[host..].find('/').map_or(endpoint.len(), |at| host + at);
        &endpoint[..end]
    }

    fn unreachable(&self, id: &HubId, reason: &str) -> Error {
        let reason = reason.chars().take(300).collect();
        Error::Unreachable {
            what: id.to_string(),
            endpoint: self.settings.endpoint.clone(),
            reason,
        }
    }

    fn odd(&self, id: &HubId, answer: String) -> Error {
        Error::Answer { what: id.to_string(), endpoint: self.settings.endpoint.clone(), answer }
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Percent-encodes what names may hold and URLs do not; `/` too if `whole`.
fn encoded(text: &str, whole: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                encoded.push(char::from(byte));
            }
            b'/' if !whole => encoded.push('/'),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}
