//! Against a hub on loopback: what comes is whole, right and in the cache, or one
//! error says why not, soon.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hub::{Cache, Error, HubId, Progress};
use support::{COMMIT, FakeHub, Fault, TOKEN, large, small};

fn id(text: &str) -> Result<HubId> {
    Ok(text.parse()?)
}

struct Silence;

impl Progress for Silence {
    fn bytes(&mut self, _: &str, _: u64, _: Option<u64>) {}
}

#[test]
fn files_come_once_and_stay() -> Result<()> {
    let fake = FakeHub::new(&[
        ("config.json", small(b"{}")),
        ("vqvae/model.safetensors", large(Fault::None)),
    ])?;
    let dir = tempfile::tempdir()?;
    let hub = fake.hub(dir.path());
    let listing = hub.listing(&id("o/m")?)?;
    assert_eq!(listing.commit, COMMIT);
    assert_eq!(listing.files, ["config.json", "vqvae/model.safetensors"]);

    let mut last = (0, None);
    let mut progress = |_: &str, done, total| last = (done, total);
    let fetched = hub.fetch(&id("o/m")?, "vqvae/model.safetensors", &mut progress)?;
    assert_eq!(last, (200_000, Some(200_000)));
    let content = large(Fault::None).content;
    assert_eq!(fs::read(&fetched.path)?, content);
    assert_eq!(fetched.sha256, Some(checkpoints::sha256_bytes(&content)));
    // As the Hugging Face tools lay it out.
    let repo = dir.path().join("models--o--m");
    assert_eq!(fetched.path, repo.join("snapshots").join(COMMIT).join("vqvae/model.safetensors"));
    assert_eq!(fs::read_to_string(repo.join("refs/main"))?, COMMIT);
    assert!(repo.join("blobs").join(checkpoints::sha256_bytes(&content)).is_file());
    #[cfg(unix)]
    ensure!(fs::read_link(&fetched.path)?.is_relative());

    // Again: the hub says that it is the same, and nothing is downloaded.
    let before = fake.requests().len();
    let again = hub.fetch(&id("o/m")?, "vqvae/model.safetensors", &mut Silence)?;
    assert_eq!(again, fetched);
    let asked = fake.requests().split_off(before);
    ensure!(asked.len() == 1 && asked[0].starts_with("HEAD"), "{asked:?}");
    // By its commit: the hub is not asked at all.
    let before = fake.requests().len();
    let pinned = id(&format!("o/m@{COMMIT}"))?;
    assert_eq!(hub.fetch(&pinned, "vqvae/model.safetensors", &mut Silence)?.path, fetched.path);
    assert_eq!(fake.requests().len(), before);

    let small = hub.fetch(&id("o/m")?, "config.json", &mut Silence)?;
    assert_eq!((fs::read(&small.path)?, small.sha256), (b"{}".to_vec(), None));

    let offline = hub::Hub::new(hub::Settings { offline: true, ..fake.settings(dir.path()) });
    assert_eq!(offline.fetch(&id("o/m")?, "config.json", &mut Silence)?.path, small.path);
    assert_eq!(offline.listing(&id("o/m")?)?.files.len(), 2);
    let missing = offline.fetch(&id("o/m")?, "other", &mut Silence);
    ensure!(matches!(missing, Err(Error::Offline { .. })), "{missing:?}");
    assert_eq!(fake.requests().len(), before + 2);
    Ok(())
}

#[test]
fn a_renamed_repository_is_followed() -> Result<()> {
    let fake = FakeHub::new(&[("a.bin", large(Fault::None))])?;
    let dir = tempfile::tempdir()?;
    let hub = fake.hub(dir.path());
    assert_eq!(hub.listing(&id("o/old")?)?.files, ["a.bin"]);
    assert_eq!(fs::read(hub.fetch(&id("o/old")?, "a.bin", &mut Silence)?.path)?.len(), 200_000);
    Ok(())
}

#[test]
fn a_download_that_breaks_goes_on_where_it_stopped() -> Result<()> {
    let fault = Fault::Breaks { after: 70_000, times: 2 };
    let fake = FakeHub::new(&[("a.bin", large(fault))])?;
    let dir = tempfile::tempdir()?;
    let fetched = fake.hub(dir.path()).fetch(&id("o/m")?, "a.bin", &mut Silence)?;
    assert_eq!(fs::read(fetched.path)?, large(fault).content);
    let ranges: Vec<_> = fake.requests().into_iter().filter(|r| r.contains("/storage/")).collect();
    ensure!(ranges.len() == 3, "{ranges:?}");
    ensure!(
        ranges[1].contains("bytes=70000-") && ranges[2].contains("bytes=140000-"),
        "{ranges:?}"
    );
    Ok(())
}

#[test]
fn what_another_run_left_is_used_or_thrown_away() -> Result<()> {
    for (fault, left, expected_requests) in [
        // The beginning of it: the rest is asked for.
        (Fault::None, large(Fault::None).content[..150_000].to_vec(), 1),
        // Something else: its hash is wrong, and it comes from the start.
        (Fault::None, vec![9; 150_000], 2),
        // The hub cannot continue: all of it again.
        (Fault::NoRanges, large(Fault::None).content[..150_000].to_vec(), 2),
        // As long as it should be, and whole.
        (Fault::None, large(Fault::None).content, 0),
    ] {
        let fake = FakeHub::new(&[("a.bin", large(fault))])?;
        let dir = tempfile::tempdir()?;
        let content = large(fault).content;
        let blobs = dir.path().join("models--o--m/blobs");
        fs::create_dir_all(&blobs)?;
        let partial = format!("{}.incomplete", checkpoints::sha256_bytes(&content));
        fs::write(blobs.join(&partial), left)?;
        let fetched = fake.hub(dir.path()).fetch(&id("o/m")?, "a.bin", &mut Silence)?;
        assert_eq!(fs::read(fetched.path)?, content);
        ensure!(!blobs.join(&partial).exists());
        let asked = fake.requests().iter().filter(|r| r.contains("/storage/")).count();
        assert_eq!(asked, expected_requests, "{fault:?}");
    }
    Ok(())
}

#[test]
fn what_goes_wrong_is_said_and_nothing_is_kept() -> Result<()> {
    for (fault, part) in [
        (Fault::WrongHash, "the hub states"),
        (Fault::TooLong, "more than the 200000 bytes"),
        (Fault::NoCommit, "x-repo-commit"),
        (Fault::PathEtag, "ETag"),
        (Fault::Elsewhere, "redirect away"),
        (Fault::Breakdown, "500: on fire"),
        (Fault::NeedsToken, "HF_TOKEN"),
        (Fault::Breaks { after: 0, times: 99 }, "does not answer"),
    ] {
        let fake = FakeHub::new(&[("a.bin", large(fault))])?;
        let dir = tempfile::tempdir()?;
        let result = fake.hub(dir.path()).fetch(&id("o/m")?, "a.bin", &mut Silence);
        let error = result.err().with_context(|| format!("{fault:?} was not noticed"))?.to_string();
        ensure!(error.contains(part) && error.contains("o/m"), "{fault:?}: {error}");
        let blobs = dir.path().join("models--o--m/blobs");
        let kept = fs::read_dir(blobs).map(Iterator::count).unwrap_or(0);
        let empty = matches!(fault, Fault::Breaks { .. });
        ensure!(kept == usize::from(empty), "{fault:?} left {kept} files");
        ensure!(!dir.path().join("models--o--m/snapshots").exists(), "{fault:?}");
        ensure!(!dir.path().parent().context("parent")?.join("evil").exists());
    }
    Ok(())
}

#[test]
fn a_hub_that_hangs_is_not_waited_for() -> Result<()> {
    for fault in [Fault::Hangs, Fault::Silent] {
        let fake = FakeHub::new(&[("a.bin", large(fault))])?;
        let dir = tempfile::tempdir()?;
        let start = Instant::now();
        let result = fake.hub(dir.path()).fetch(&id("o/m")?, "a.bin", &mut Silence);
        // Each wait is 0.4 s: once for half of it, and twice for nothing.
        ensure!(start.elapsed() < Duration::from_secs(10), "{fault:?}: {:?}", start.elapsed());
        let error = result.err().context("it answered")?.to_string();
        ensure!(error.contains("does not answer"), "{fault:?}: {error}");
    }
    // Nobody listens.
    let fake = FakeHub::new(&[])?;
    let dir = tempfile::tempdir()?;
    let settings =
        hub::Settings { endpoint: "http://127.0.0.1:9".into(), ..fake.settings(dir.path()) };
    let error = hub::Hub::new(settings).listing(&id("o/m")?).err().context("it answered")?;
    ensure!(matches!(error, Error::Unreachable { .. }), "{error}");
    Ok(())
}

#[test]
fn the_token_goes_to_the_hub() -> Result<()> {
    let fake = FakeHub::new(&[("a.bin", large(Fault::NeedsToken))])?;
    let dir = tempfile::tempdir()?;
    let with = |token: &str| {
        let token = Some(token.to_owned());
        hub::Hub::new(hub::Settings { token, ..fake.settings(dir.path()) })
    };
    let error = with("wrong").fetch(&id("o/m")?, "a.bin", &mut Silence);
    let error = error.err().context("it answered")?.to_string();
    ensure!(error.contains("the token is not accepted"), "{error}");
    with(TOKEN).fetch(&id("o/m")?, "a.bin", &mut Silence)?;
    ensure!(!format!("{:?}", fake.settings(dir.path())).contains(TOKEN));
    Ok(())
}

#[test]
fn what_is_not_there() -> Result<()> {
    let fake = FakeHub::new(&[("a.bin", small(b"x"))])?;
    let dir = tempfile::tempdir()?;
    let hub = fake.hub(dir.path());
    for (repo, file) in [("o/m", "none"), ("o/none", "a.bin")] {
        let error = hub.fetch(&id(repo)?, file, &mut Silence).err().context("it is there")?;
        ensure!(error.is_not_found() && error.to_string().contains("404"), "{error}");
    }
    for file in ["../x", "/etc/passwd", "", "a\\b"] {
        ensure!(matches!(hub.fetch(&id("o/m")?, file, &mut Silence), Err(Error::Name { .. })));
    }
    Ok(())
}

#[test]
fn the_cache_is_listed_and_emptied() -> Result<()> {
    let fake = FakeHub::new(&[("a.bin", large(Fault::None)), ("b", small(b"x"))])?;
    let dir = tempfile::tempdir()?;
    let cache = Cache::new(dir.path());
    assert!(cache.list()?.is_empty());
    let hub = fake.hub(dir.path());
    hub.fetch(&id("o/m")?, "a.bin", &mut Silence)?;
    hub.fetch(&id("o/m")?, "b", &mut Silence)?;
    fs::create_dir(dir.path().join("models--.."))?;
    let repos = cache.list()?;
    assert_eq!(repos.len(), 1);
    assert_eq!((repos[0].id.repo().as_str(), repos[0].bytes), ("o/m", 200_001));
    assert_eq!(repos[0].snapshots, [(COMMIT.to_owned(), 2)]);
    let snapshot = cache.path(&id("o/m")?).context("it is there")?;
    assert_eq!(cache.path(&id("o/m:a.bin")?), Some(snapshot.join("a.bin")));
    assert_eq!(cache.path(&id("o/m:c")?), None);
    assert_eq!(cache.path(&id("o/n")?), None);
    assert!(cache.remove(&id("o/m")?)?);
    assert!(!cache.remove(&id("o/m")?)? && cache.list()?.is_empty());
    Ok(())
}
