//! What may be written where, found out before the work starts.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// How many names a message lists.
const LISTED: usize = 5;

/// Checks that writing `outputs` destroys nothing: no file that exists unless
/// `force`, and never one of `inputs`.
///
/// # Errors
/// With the names that are in the way.
pub fn check(outputs: &[PathBuf], inputs: &[&Path], force: bool) -> Result<()> {
    let existing: Vec<_> = outputs.iter().filter(|path| path.symlink_metadata().is_ok()).collect();
    let sources: HashSet<_> =
        inputs.iter().filter_map(|path| std::fs::canonicalize(path).ok()).collect();
    let own = |path: &Path| std::fs::canonicalize(path).is_ok_and(|path| sources.contains(&path));
    if let Some(path) = existing.iter().find(|path| own(path)) {
        bail!(
            "{} is an input and would be overwritten by its result; choose another --output",
            path.display()
        );
    }
    if !force && !existing.is_empty() {
        let listed: Vec<_> =
            existing.iter().take(LISTED).map(|path| path.display().to_string()).collect();
        let more = match existing.len().saturating_sub(LISTED) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let verb = if existing.len() == 1 { "exists" } else { "exist" };
        bail!(
            "{}{more} {verb} already; nothing was done. Replace with --force, or choose another \
             --output",
            listed.join(", ")
        );
    }
    if let Some(path) = existing.iter().find(|path| path.is_dir()) {
        bail!("{} is a folder and stands where a result should go", path.display());
    }
    Ok(())
}

/// Makes the folder that `path` is in.
pub fn make_folder_of(path: &Path) -> Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_what_is_there() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let input = dir.path().join("in.png");
        let old = dir.path().join("old.png");
        let new = dir.path().join("new.png");
        std::fs::write(&input, b"x")?;
        std::fs::write(&old, b"x")?;
        let message = |outputs: &[PathBuf], force| match check(outputs, &[&input], force) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        assert_eq!(message(std::slice::from_ref(&new), false), "");
        assert_eq!(message(&[new.clone(), old.clone()], true), "");
        assert!(message(&[new, old.clone()], false).contains("old.png exists already"));
        assert!(message(&[old, input.clone()], true).contains("is an input"));
        let folder = dir.path().to_path_buf();
        assert!(message(&[folder], true).contains("is a folder"));
        Ok(())
    }
}
