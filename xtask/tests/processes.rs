//! Training processes that are killed and interrupted.

use std::process::{Command, Output};

use anyhow::{Result, ensure};

fn xtask(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).output()?)
}

/// The short form of `cargo xtask torture`, which kills 50 times.
#[test]
fn a_killed_run_ends_like_an_undisturbed_one() -> Result<()> {
    for (stage, kills) in [("vqgan", "3"), ("transformer", "2")] {
        let output = xtask(&["torture", "--stage", stage, "--kills", kills, "--steps", "24"])?;
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{stage}: {out}{err}");
        ensure!(out.contains(&format!("{kills} kills in")), "{stage}: {out}");
    }
    Ok(())
}

/// What only a first stage's run has is said to be so, wherever it is set.
#[test]
fn settings_of_first_stages_are_refused_for_transformers() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/configs");
    let preset = std::fs::read_to_string(format!("{root}/tiny-transformer.toml"))?;
    let run = format!("run={}", dir.path().join("run").display());
    for (key, why) in [
        ("partial", "built as init.model was"),
        ("keep_codes", "first stage stays"),
        ("discriminator", "trains against none"),
    ] {
        let file = dir.path().join("config.toml");
        std::fs::write(&file, preset.replace("[init]", &format!("[init]\n{key} = true")))?;
        let in_file = file.display().to_string();
        let preset = format!("{root}/tiny-transformer.toml");
        let setting = format!("init.{}=true", key.replace('_', "-"));
        for arguments in [&[&*in_file, &run][..], &[&preset, &run, &setting]] {
            let output = xtask(&[&["train", "transformer", "--config"][..], arguments].concat())?;
            let err = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(2), "{:?}: {err}", output.status);
            let named = format!("init.{key}: only `train vqgan` has it");
            for part in [&*named, why, arguments[0], "leave it out"] {
                ensure!(err.contains(part), "{part:?} is not in {err}");
            }
        }
    }
    ensure!(!dir.path().join("run").exists(), "a run was begun");
    Ok(())
}

#[cfg(unix)]
mod signals {
    use std::path::Path;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use anyhow::{Context, bail};
    use image::{Rgb, RgbImage};

    use super::*;

    /// A run that would go on for long.
    fn start(dir: &Path) -> Result<std::process::Child> {
        let data = dir.join("pictures");
        std::fs::create_dir_all(&data)?;
        for i in 0..8_u8 {
            let picture = RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8 * 7, y as u8 * 7, i * 30]));
            picture.save(data.join(format!("{i}.png")))?;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let child = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["train", "vqgan", "--plain", "--config"])
            .arg(root.join("assets/configs/tiny.toml"))
            .arg(format!("data={}", data.display()))
            .arg(format!("run={}", dir.join("run").display()))
            .args(["steps=100000", "batch=2", "log.every=1", "validation.every=0"])
            .args(["log.preview_every=0", "checkpoint.minutes=0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (log, begun) = (dir.join("run/metrics.jsonl"), Instant::now());
        while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains('\n')) {
            ensure!(begun.elapsed() < Duration::from_secs(60), "no step in a minute");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(child)
    }

    fn signal(child: &std::process::Child, name: &str) -> Result<()> {
        let status = Command::new("kill").args([name, &child.id().to_string()]).status()?;
        ensure!(status.success(), "kill {name}");
        Ok(())
    }

    fn checkpoints(dir: &Path) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(dir.join("run/checkpoints"))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    #[test]
    fn ctrl_c_leaves_a_checkpoint_and_the_way_on() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let child = start(dir.path())?;
        signal(&child, "-INT")?;
        let output = child.wait_with_output()?;
        let out = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.code() == Some(130), "{:?}", output.status);
        ensure!(out.contains("stopped; run it again to go on"), "{out}");
        let names = checkpoints(dir.path())?;
        ensure!(names.iter().any(|name| name.ends_with(".json")), "{names:?}");
        ensure!(dir.path().join("run/model/model.safetensors").is_file());
        Ok(())
    }

    #[test]
    fn a_second_ctrl_c_leaves_at_once() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let mut child = start(dir.path())?;
        // A process that is halted hears both at the same time.
        signal(&child, "-STOP")?;
        signal(&child, "-TERM")?;
        signal(&child, "-INT")?;
        signal(&child, "-CONT")?;
        let begun = Instant::now();
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if begun.elapsed() > Duration::from_secs(30) => bail!("it did not leave"),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        ensure!(status.code().context("killed")? == 130, "{status:?}");
        let names = checkpoints(dir.path())?;
        ensure!(!names.iter().any(|name| name.ends_with(".json")), "{names:?}");
        Ok(())
    }
}
