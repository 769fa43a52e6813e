use std::fs;
use std::io;
use std::path::Path;

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn replaces_whole() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.bin");
    atomic_write(&path, |w| w.write_all(b"one"))?;
    atomic_write(&path, |w| w.write_all(b"two!"))?;
    assert_eq!(fs::read(&path)?, b"two!");
    assert_eq!(names(dir.path()), ["a.bin"]);
    Ok(())
}

#[test]
fn a_failure_leaves_what_was_there() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.bin");
    atomic_write(&path, |w| w.write_all(b"one"))?;
    let result = atomic_write(&path, |w| {
        w.write_all(b"half")?;
        Err(io::Error::other("disk full"))
    });
    assert!(result.is_err_and(|e| e.to_string().contains("disk full")));
    assert_eq!(fs::read(&path)?, b"one");
    assert_eq!(names(dir.path()), ["a.bin"]);
    Ok(())
}

#[test]
fn refuses_a_folder() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    assert!(atomic_write(dir.path(), |_| Ok(())).is_err());
    Ok(())
}

#[test]
fn a_bare_name_lies_in_the_current_folder() {
    assert_eq!(parent(Path::new("a.bin")), Path::new("."));
    assert_eq!(parent(Path::new("b/a.bin")), Path::new("b"));
}

#[cfg(unix)]
#[test]
fn permissions_and_links_stay() -> anyhow::Result<()> {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir()?;
    let plain = dir.path().join("plain");
    File::create(&plain)?;
    let usual = fs::metadata(&plain)?.permissions().mode();

    let path = dir.path().join("a.bin");
    atomic_write(&path, |w| w.write_all(b"one"))?;
    assert_eq!(fs::metadata(&path)?.permissions().mode(), usual);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640))?;
    let link = dir.path().join("link");
    symlink(&path, &link)?;
    atomic_write(&link, |w| w.write_all(b"two"))?;
    assert!(fs::symlink_metadata(&link)?.is_symlink());
    assert_eq!(fs::read(&path)?, b"two");
    assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o640);
    Ok(())
}
