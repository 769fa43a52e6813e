//! How far the drawing is, on stderr.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::print_line;
use crate::session::Session;

/// How often a log that is no terminal gets a line.
const LINE_EVERY: Duration = Duration::from_secs(20);

/// Codes drawn, codes a second, time left: a bar on a terminal, a line now and then
/// in a log.
pub struct Progress {
    bar: ProgressBar,
    total: u64,
    started: Instant,
    /// When the last line was written; none: there are none.
    line: Option<Cell<Instant>>,
}

impl Progress {
    /// Of `total` codes.
    pub fn new(session: &Session, total: u64) -> Self {
        let terminal = io::stderr().is_terminal();
        let target = match session.quiet || !terminal {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) = ProgressStyle::with_template(
            "{spinner} {pos}/{len} codes [{bar:30}] {per_sec}, {elapsed_precise}, {eta} left",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        let started = Instant::now();
        let line = (!session.quiet && !terminal).then(|| Cell::new(started));
        Self { bar, total, started, line }
    }

    /// `codes` are there.
    pub fn at(&mut self, codes: u64) {
        self.bar.set_position(codes);
        if let Some(line) = &self.line
            && line.get().elapsed() >= LINE_EVERY
        {
            line.set(Instant::now());
            let speed = self.speed();
            let left = self.total.saturating_sub(codes) as f64 / speed.max(1e-9);
            eprintln!("{codes}/{} codes, {speed:.1} codes/s, {left:.0} s left", self.total);
        }
    }

    /// How many codes are there.
    pub fn position(&self) -> u64 {
        self.bar.position()
    }

    /// Prints a line of results.
    pub fn print(&self, line: &str) {
        self.bar.suspend(|| print_line(line));
    }

    /// Takes the bar away; codes a second.
    pub fn finish(self) -> f64 {
        let speed = self.speed();
        self.bar.finish_and_clear();
        speed
    }

    fn speed(&self) -> f64 {
        self.bar.position() as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }
}
