//! A hub on loopback: the two questions that are asked of one, and every way in
//! which it may answer wrongly.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hub::{Hub, Settings};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const TOKEN: &str = "hf_secret";

/// What goes wrong with a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// The connection breaks after so many bytes, the first so many times.
    Breaks { after: usize, times: usize },
    /// The bytes are others than the hash says.
    WrongHash,
    /// Ranges are ignored: always the whole file.
    NoRanges,
    /// Headers, half of the content, then nothing.
    Hangs,
    /// Not even headers.
    Silent,
    /// More bytes than announced.
    TooLong,
    /// Without the commit.
    NoCommit,
    /// An ETag that would be a path.
    PathEtag,
    /// A redirect to another host for the metadata.
    Elsewhere,
    /// 401 without the token.
    NeedsToken,
    /// 500.
    Breakdown,
}

#[derive(Clone)]
pub struct Served {
    pub content: Vec<u8>,
    pub fault: Fault,
    /// Large files are elsewhere, and have a SHA-256.
    pub large: bool,
}

/// The server, and what it was asked.
pub struct FakeHub {
    pub url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

type Files = Arc<BTreeMap<String, Served>>;

impl FakeHub {
    pub fn new(files: &[(&str, Served)]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let files: Files =
            Arc::new(files.iter().map(|(name, file)| ((*name).to_owned(), file.clone())).collect());
        let (log, base) = (Arc::clone(&requests), url.clone());
        let broken = Arc::new(Mutex::new(0));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, files, base) = (Arc::clone(&log), Arc::clone(&files), base.clone());
                let broken = Arc::clone(&broken);
                thread::spawn(move || serve(stream, &files, &base, &log, &broken));
            }
        });
        Ok(Self { url, requests })
    }

    /// Requests so far: method, path, range, whether the token came.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().map(|log| log.clone()).unwrap_or_default()
    }

    pub fn settings(&self, cache: &std::path::Path) -> Settings {
        Settings {
            endpoint: self.url.clone(),
            cache: cache.to_path_buf(),
            token: None,
            offline: false,
            connect: Duration::from_secs(5),
            silence: Duration::from_millis(400),
            retries: 1,
        }
    }

    pub fn hub(&self, cache: &std::path::Path) -> Hub {
        Hub::new(self.settings(cache))
    }
}

pub fn small(content: &[u8]) -> Served {
    Served { content: content.to_vec(), fault: Fault::None, large: false }
}

pub fn large(fault: Fault) -> Served {
    let content = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    Served { content, fault, large: true }
}

fn serve(
    stream: TcpStream,
    files: &Files,
    base: &str,
    log: &Mutex<Vec<String>>,
    broken: &Mutex<usize>,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let (method, path) = (line.split(' ').next()?.to_owned(), line.split(' ').nth(1)?.to_owned());
    let range = headers.get("range").cloned();
    let authorized = headers.get("authorization").is_some_and(|a| a == &format!("Bearer {TOKEN}"));
    log.lock().ok()?.push(format!(
        "{method} {path} {} {}",
        range.as_deref().unwrap_or("-"),
        if authorized { "token" } else { "-" }
    ));
    answer(stream, files, base, &method, &path, range.as_deref(), authorized, broken)
}

#[allow(clippy::too_many_arguments)]
fn answer(
    mut out: TcpStream,
    files: &Files,
    base: &str,
    method: &str,
    path: &str,
    range: Option<&str>,
    authorized: bool,
    broken: &Mutex<usize>,
) -> Option<()> {
    let mut reply = |status: &str, headers: &str, body: &[u8]| {
        let length = format!("content-length: {}\r\n", body.len());
        let length = if headers.contains("content-length") { "" } else { &length };
        let head = format!("HTTP/1.1 {status}\r\n{headers}{length}connection: close\r\n\r\n");
        out.write_all(head.as_bytes()).ok()?;
        if method != "HEAD" {
            out.write_all(body).ok()?;
        }
        out.flush().ok()
    };
    if path.starts_with("/api/models/o/old/") {
        return reply(
            "307 Temporary Redirect",
            &format!("location: {}\r\n", path.replace("/old/", "/m/")),
            b"",
        );
    }
    if path.starts_with("/api/models/o/m/revision/") {
        let names: Vec<_> =
            files.keys().map(|name| format!("{{\"rfilename\":\"{name}\"}}")).collect();
        let body = format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{}]}}", names.join(","));
        return reply("200 OK", "content-type: application/json\r\n", body.as_bytes());
    }
    if path.starts_with("/o/old/resolve/") {
        return reply(
            "307 Temporary Redirect",
            &format!("location: {}\r\n", path.replace("/old/", "/m/")),
            b"",
        );
    }
    let resolved = path.strip_prefix("/o/m/resolve/").and_then(|rest| rest.split_once('/'));
    let stored = path.strip_prefix("/storage/");
    let Some(name) = stored.or(resolved.map(|(_, name)| name)) else {
        return reply("404 Not Found", "x-error-code: RepoNotFound\r\n", b"");
    };
    let Some(file) = files.get(name) else {
        return reply("404 Not Found", "x-error-code: EntryNotFound\r\n", b"");
    };
    let mut content = file.content.clone();
    let sha256 = checkpoints::sha256_bytes(&content);
    if stored.is_none() {
        match file.fault {
            Fault::Silent => {
                thread::sleep(Duration::from_secs(4));
                return None;
            }
            Fault::NeedsToken if !authorized => return reply("401 Unauthorized", "", b""),
            Fault::Breakdown => {
                return reply("500 Internal Server Error", "x-error-message: on fire\r\n", b"");
            }
            Fault::Elsewhere => {
                return reply("302 Found", "location: http://127.0.0.2:1/x\r\n", b"");
            }
            _ => {}
        }
        let commit = format!("x-repo-commit: {COMMIT}\r\n");
        let commit = if file.fault == Fault::NoCommit { "" } else { &commit };
        let etag = if file.fault == Fault::PathEtag { "../../../../evil" } else { sha256.as_str() };
        if file.large {
            let headers = format!(
                "{commit}x-linked-etag: \"{etag}\"\r\nx-linked-size: {}\r\nlocation: {base}/storage/{name}\r\n",
                content.len()
            );
            return reply("302 Found", &headers, b"");
        }
        let headers =
            format!("{commit}etag: \"{}\"\r\ncontent-length: {}\r\n", &sha256[..40], content.len());
        return reply("200 OK", &headers, &content);
    }
    match file.fault {
        Fault::WrongHash => content[7] ^= 1,
        Fault::TooLong => content.extend(b"more"),
        _ => {}
    }
    let start =
        range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let start: usize = start.filter(|_| file.fault != Fault::NoRanges).unwrap_or(0);
    let total = content.len();
    let body = content.split_off(start.min(total));
    let (status, extra) = if start > 0 {
        let last = total - 1;
        ("206 Partial Content", format!("content-range: bytes {start}-{last}/{total}\r\n"))
    } else {
        ("200 OK", String::new())
    };
    let headers = format!("{extra}content-length: {}\r\n", body.len());
    let sent = match file.fault {
        Fault::Hangs => (total / 2).saturating_sub(start),
        Fault::Breaks { after, times } => {
            let mut broken = broken.lock().ok()?;
            *broken += 1;
            if *broken <= times { after.min(body.len()) } else { body.len() }
        }
        _ => body.len(),
    };
    reply(status, &headers, &body[..sent])?;
    if file.fault == Fault::Hangs && sent < body.len() {
        thread::sleep(Duration::from_secs(4));
    }
    None
}
