//! `cargo xtask torture`: kills a training process again and again, and checks that the
//! run comes out as if nothing had happened.

mod subject;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use subject::{Life, Stage, Subject};

/// Longest life of a process, so that a run is killed several times.
const LIFE: Duration = Duration::from_secs(4);
/// How long to look for a half-written checkpoint before killing anyway.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Args)]
pub struct Torture {
    /// What to train
    #[arg(long, value_enum, default_value_t = Stages::Both)]
    stage: Stages,
    /// How often to kill (SIGKILL), each of them
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// Steps of a run; when it ends before all kills are done, another one begins
    #[arg(long, default_value_t = 400)]
    steps: u64,
    /// Decides when to kill, as far as that can be decided
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Leave the runs in this folder to be looked at; by default they are temporary
    #[arg(long)]
    keep: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Stages {
    Vqgan,
    Transformer,
    Both,
}

/// What was seen of all kills.
#[derive(Default)]
struct Seen {
    kills: usize,
    /// Kills that left a file of a checkpoint half-written.
    torn: usize,
    /// Most steps that had to be done a second time after a kill.
    lost: u64,
    runs: usize,
}

impl Torture {
    /// Trains once in peace, then under fire, and compares.
    ///
    /// # Errors
    /// If a run cannot go on, loses a checkpoint, or ends differently.
    pub fn run(self) -> Result<()> {
        let temporary = tempfile::tempdir().context("no temporary folder")?;
        let folder = self.keep.as_deref().unwrap_or(temporary.path());
        if matches!(self.stage, Stages::Vqgan | Stages::Both) {
            self.stage(Stage::Vqgan, &folder.join("vqgan"))?;
        }
        if matches!(self.stage, Stages::Transformer | Stages::Both) {
            self.stage(Stage::Transformer, &folder.join("transformer"))?;
        }
        Ok(())
    }

    /// All kills of one kind of run.
    fn stage(&self, stage: Stage, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let whole = folder.join("whole");
        ensure!(!whole.exists(), "{} holds runs already: choose another folder", folder.display());
        let subject = Subject::prepare(folder, stage, self.steps)?;
        let begun = Instant::now();
        subject.start(&whole)?.finish()?;
        let length = begun.elapsed();
        println!("{stage:?}, undisturbed: {} steps in {:.1} s", self.steps, length.as_secs_f64());

        let (mut seen, mut dice) = (Seen::default(), Dice(self.seed));
        while seen.kills < self.kills {
            let run = folder.join(format!("killed-{}", seen.runs));
            self.disturb(&subject, &run, length, &mut seen, &mut dice)?;
            subject.compare(&whole, &run).with_context(|| run.display().to_string())?;
            seen.runs += 1;
        }
        println!(
            "{} kills in {} runs, {} of them while a checkpoint was written; at most {} steps (checkpoints \
             are {} apart) had to be done again; every run ended with the weights, moments and \
             log lines of the undisturbed one",
            seen.kills,
            seen.runs,
            seen.torn,
            seen.lost,
            subject::SAVE_EVERY
        );
        Ok(())
    }

    /// One run to its end, through as many kills as come.
    fn disturb(
        &self,
        subject: &Subject,
        run: &Path,
        length: Duration,
        seen: &mut Seen,
        dice: &mut Dice,
    ) -> Result<()> {
        let mut kept = 0;
        loop {
            let mut life = subject.start(run)?;
            let killed = seen.kills < self.kills && self.kill(&mut life, run, length, dice)?;
            if !killed {
                return life.finish();
            }
            seen.kills += 1;
            seen.torn += usize::from(subject::half_written(&run.join("checkpoints")));
            let reached = subject::last_logged(run)?;
            let checkpoint = subject::newest(run)?;
            ensure!(
                checkpoint >= kept,
                "the run stood at step {kept} and now at {checkpoint}: a checkpoint was lost"
            );
            ensure!(
                reached.saturating_sub(checkpoint) <= subject::SAVE_EVERY,
                "step {reached} was logged, and the newest checkpoint is of step {checkpoint}"
            );
            kept = checkpoint;
            seen.lost = seen.lost.max(reached.saturating_sub(checkpoint));
        }
    }

    /// Kills `life`, half of the time at any instant, half as soon as a checkpoint is
    /// being written. False if it was at its end before.
    fn kill(&self, life: &mut Life, run: &Path, length: Duration, dice: &mut Dice) -> Result<bool> {
        let wait = LIFE.min(length.mul_f64(0.6)).mul_f64(dice.share());
        let begun = Instant::now();
        while begun.elapsed() < wait {
            if life.is_over()? {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        if dice.share() < 0.5 {
            let checkpoints = run.join("checkpoints");
            while !subject::half_written(&checkpoints) && begun.elapsed() < wait + PATIENCE {
                if life.is_over()? {
                    return Ok(false);
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            // Somewhere within the few milliseconds that a file takes.
            std::thread::sleep(Duration::from_micros((4000.0 * dice.share()) as u64));
        }
        life.kill()
    }
}

/// Where kills fall (splitmix64).
struct Dice(u64);

impl Dice {
    /// A number in [0, 1).
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
