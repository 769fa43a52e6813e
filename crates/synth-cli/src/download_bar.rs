//! How a download goes, on stderr.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pipeline::hub::Progress;

/// A bar on a terminal, a line a file elsewhere, nothing if quiet.
pub struct DownloadBar {
    bar: ProgressBar,
    file: String,
    quiet: bool,
}

impl DownloadBar {
    /// Nothing is shown before something is downloaded.
    pub fn new(quiet: bool) -> Self {
        let target = match quiet || !stderr().is_terminal() {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let template = "{msg} {bytes}/{total_bytes} [{bar:30}] {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, file: String::new(), quiet }
    }
}

impl Progress for DownloadBar {
    fn bytes(&mut self, file: &str, done: u64, total: Option<u64>) {
        if self.file != file {
            file.clone_into(&mut self.file);
            self.bar.set_message(self.file.clone());
            if self.bar.is_hidden() && !self.quiet {
                let size = total.map(|n| format!(" ({n} bytes)")).unwrap_or_default();
                eprintln!("downloading {file}{size}");
            }
        }
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
    }
}

impl Drop for DownloadBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
