//! Results on stdout, progress and failures on stderr.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use crate::exit::Outcome;
use crate::session::Session;
use crate::table::{Column, Table, shown};

/// What became of one picture.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// The input.
    pub source: String,
    /// The file with the result.
    pub output: String,
    /// The side by side picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare: Option<String>,
    /// Pixels of the picture.
    pub width: u32,
    /// Pixels of the picture.
    pub height: u32,
    /// Width and height of its code grid.
    pub grid: (usize, usize),
    /// Likeness to the original.
    #[serde(flatten)]
    pub metrics: Option<Metrics>,
}

/// How like the original a reconstruction is.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Metrics {
    /// Decibels; infinite (null in JSON) where equal.
    pub psnr: f64,
    /// At most 1.
    pub ssim: f64,
}

/// What the columns have to hold.
pub struct Layout {
    /// The longest source.
    pub source: usize,
    /// The longest output.
    pub output: usize,
    /// Whether there are metrics.
    pub metrics: bool,
}

impl Layout {
    /// For the names of sources and outputs, and whether there are metrics.
    pub fn new<'a>(names: impl IntoIterator<Item = (&'a Path, &'a Path)>, metrics: bool) -> Self {
        let length = |path: &Path| shown(&path.to_string_lossy()).chars().count();
        let start = Self { source: 0, output: 0, metrics };
        names.into_iter().fold(start, |layout, (source, output)| Self {
            source: layout.source.max(length(source)),
            output: layout.output.max(length(output)),
            ..layout
        })
    }

    fn table(&self) -> Table {
        let mut columns = vec![
            Column::text("picture", self.source),
            Column::number("size", "9999x9999".len()),
            Column::number("codes", "999x999".len()),
        ];
        if self.metrics {
            columns.push(Column::number("PSNR dB", 0));
            columns.push(Column::number("SSIM", "0.9999".len()));
        }
        columns.push(Column::text("written to", self.output));
        Table::new(columns)
    }
}

/// Collects what happens and tells the user as it does.
pub struct Report {
    json: bool,
    quiet: bool,
    table: Table,
    metrics: bool,
    bar: ProgressBar,
    started: Instant,
    done: u64,
    failed: u64,
    sum: Metrics,
}

impl Report {
    /// A report of `total` pictures.
    pub fn new(session: &Session, total: usize, layout: &Layout) -> Self {
        let report = Self {
            json: session.json,
            quiet: session.quiet,
            table: layout.table(),
            metrics: layout.metrics,
            bar: progress_bar(total as u64, session.quiet),
            started: Instant::now(),
            done: 0,
            failed: 0,
            sum: Metrics { psnr: 0.0, ssim: 0.0 },
        };
        if !report.json {
            report.print(&report.table.header());
        }
        report
    }

    /// A picture is done.
    pub fn done(&mut self, record: &Record) {
        self.done += 1;
        if let Some(metrics) = record.metrics {
            self.sum.psnr += metrics.psnr;
            self.sum.ssim += metrics.ssim;
        }
        self.bar.inc(1);
        if self.json {
            self.print_json("picture", serde_json::to_value(record).unwrap_or_default());
            return;
        }
        let (w, h) = record.grid;
        let mut cells = vec![
            shown(&record.source),
            format!("{}x{}", record.width, record.height),
            format!("{w}x{h}"),
        ];
        if self.metrics {
            let cell = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
            cells.push(cell(record.metrics.map(|m| format!("{:.2}", m.psnr))));
            cells.push(cell(record.metrics.map(|m| format!("{:.4}", m.ssim))));
        }
        cells.push(shown(&record.output));
        self.print(&self.table.line(cells));
    }

    /// An input failed; the others go on.
    pub fn failed(&mut self, source: &Path, error: &anyhow::Error) {
        self.failed += 1;
        self.bar.inc(1);
        let source = source.to_string_lossy();
        let error = shown(&format!("{error:#}"));
        // Most messages begin with the file they are about.
        let text = match error.starts_with(shown(&source).as_str()) {
            true => error.clone(),
            false => format!("{}: {error}", shown(&source)),
        };
        self.bar.suspend(|| eprintln!("synth-cli: {text}"));
        if self.json {
            self.print_json("failure", json!({ "source": source, "error": error }));
        }
    }

    /// Sums up.
    pub fn finish(self) -> Outcome {
        self.bar.finish_and_clear();
        let seconds = self.started.elapsed().as_secs_f64();
        let n = self.done as f64;
        let mean = (self.metrics && self.done > 0)
            .then_some(Metrics { psnr: self.sum.psnr / n, ssim: self.sum.ssim / n });
        if self.json {
            let mut summary =
                json!({ "done": self.done, "failed": self.failed, "seconds": seconds });
            if let Some(Metrics { psnr, ssim }) = mean {
                summary["mean_psnr"] = json!(psnr);
                summary["mean_ssim"] = json!(ssim);
            }
            self.print_json("summary", summary);
        } else {
            if let Some(Metrics { psnr, ssim }) = mean {
                self.print(&format!("mean PSNR {psnr:.2} dB, mean SSIM {ssim:.4}"));
            }
            if !self.quiet {
                let failed = match self.failed {
                    0 => String::new(),
                    n => format!(", {n} failed"),
                };
                eprintln!("{} done{failed} in {}", self.done, duration(seconds));
            }
        }
        match (self.done, self.failed) {
            (_, 1..) => Outcome::Failed,
            (0, 0) => Outcome::Nothing,
            _ => Outcome::Done,
        }
    }

    fn print_json(&self, kind: &str, mut value: Value) {
        value["type"] = json!(kind);
        self.print(&value.to_string());
    }

    fn print(&self, line: &str) {
        self.bar.suspend(|| print_line(line));
    }
}

/// Prints a line of results. That nobody reads them any more (a closed pipe) is
/// no error: the files are still wanted.
pub fn print_line(line: &str) {
    let mut out = io::stdout().lock();
    // Stdout is all that this could be reported to.
    let _ = writeln!(out, "{line}");
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s => format!("{} min {:.0} s", (s / 60.0).floor(), s % 60.0),
    }
}

fn progress_bar(total: u64, quiet: bool) -> ProgressBar {
    let target = if quiet || !io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    if let Ok(style) = ProgressStyle::with_template(
        "{spinner} {pos}/{len} [{bar:30}] {elapsed_precise}, {eta} left",
    ) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
