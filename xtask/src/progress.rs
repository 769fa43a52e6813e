//! The progress bar of a training run.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use training::{Event, Observer, Terms};

/// Share of the newest step in the numbers shown.
const FRESHNESS: f64 = 0.05;
/// Steps between two lines where there is no terminal.
const PLAIN_EVERY: u64 = 50;
/// Time between two lines while pictures are encoded.
const ENCODING_EVERY: Duration = Duration::from_secs(10);
/// Terms worth showing, with their short names.
const SHOWN: [(&str, &str); 9] = [
    ("nll", "nll"),
    ("pixel_loss", "pixel"),
    ("bce_loss", "bce"),
    ("p_loss", "lpips"),
    ("quant_loss", "quant"),
    ("g_loss", "g"),
    ("disc_loss", "d"),
    ("grad_norm", "grad"),
    ("lr", "lr"),
];
/// Measurements worth showing: name, what it is called, its factor, digits and unit.
const MEASURED: [(&str, &str, f64, usize, &str); 11] = [
    ("val_psnr", "PSNR", 1.0, 2, " dB"),
    ("val_ssim", "SSIM", 1.0, 3, ""),
    ("val_detail", "detail", 100.0, 0, " %"),
    ("val_l1", "L1", 1.0, 4, ""),
    ("val_accuracy", "pixels right", 100.0, 2, " %"),
    ("val_mean_iou", "mean IoU", 1.0, 3, ""),
    ("val_bce", "BCE", 1.0, 5, ""),
    ("val_usage", "codes used", 100.0, 1, " %"),
    ("val_perplexity", "perplexity", 1.0, 0, ""),
    ("val_nll", "NLL", 1.0, 4, " nats a code"),
    ("val_bits", "which are", 1.0, 3, " bits"),
];

/// Draws a run on the terminal, or prints a line now and then.
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    smooth: Terms,
    seconds: f64,
    begun: Instant,
    encoding: Option<Encoding>,
}

impl Progress {
    /// A bar on stderr; lines if `plain`, or if stderr is no terminal.
    pub fn new(plain: bool) -> Self {
        let bar = ProgressBar::new(0);
        if plain {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = "{bar:24} {pos}/{len} {msg}";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let plain = plain || bar.is_hidden();
        Self {
            bar,
            plain,
            smooth: Terms::new(),
            seconds: 0.0,
            begun: Instant::now(),
            encoding: None,
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn say(&self, line: &str) {
        if self.plain {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
    }

    fn after_step(&mut self, step: u64, terms: &Terms, pictures: usize, seconds: f64) {
        let blend = |old: f64, new: f64| old + FRESHNESS * (new - old);
        for (&name, &value) in terms.iter().filter(|(_, value)| value.is_finite()) {
            let entry = self.smooth.entry(name).or_insert(value);
            *entry = blend(*entry, value);
        }
        self.seconds = if self.seconds == 0.0 { seconds } else { blend(self.seconds, seconds) };
        let left = self.bar.length().unwrap_or(step).saturating_sub(step) as f64 * self.seconds;
        let mut message = format!(
            "{:.2} steps/s  {:.1} images/s  {} left",
            1.0 / self.seconds,
            pictures as f64 / self.seconds,
            clock(left)
        );
        for (name, short) in SHOWN {
            if let Some(value) = self.smooth.get(name) {
                let text =
                    if name == "lr" { format!("{value:.1e}") } else { format!("{value:.4}") };
                message += &format!("  {short} {text}");
            }
        }
        self.bar.set_position(step);
        if !self.plain {
            self.bar.set_message(message);
        } else if step.is_multiple_of(PLAIN_EVERY) {
            let time = clock(self.begun.elapsed().as_secs_f64());
            eprintln!("{time}  step {step}/{}  {message}", self.bar.length().unwrap_or(0));
        }
    }
}

impl Observer for Progress {
    fn see(&mut self, event: &Event) {
        match event {
            Event::Started { step, steps, parameters, pictures, resumed } => {
                self.bar.set_length(*steps);
                self.bar.set_position(*step);
                if let Some(path) = resumed {
                    self.say(&format!("continuing from {}", path.display()));
                }
                self.say(&format!(
                    "{:.2} M parameters, {} pictures, {} held out",
                    *parameters as f64 / 1e6,
                    pictures.0,
                    pictures.1
                ));
            }
            Event::Encoding { what, done, pictures } => {
                if !self.plain {
                    self.bar.set_length(*pictures as u64);
                    self.bar.set_position(*done as u64);
                    self.bar.set_message(format!("encoding pictures ({what})"));
                } else {
                    let now = Instant::now();
                    let other = self.encoding.take().filter(|encoding| encoding.what == *what);
                    let encoding =
                        self.encoding.insert(other.unwrap_or(Encoding::new(what, *done, now)));
                    if let Some(line) = encoding.line(*done, *pictures, now) {
                        eprintln!("{line}");
                    }
                }
            }
            Event::Step { step, terms, pictures, seconds } => {
                self.after_step(*step, terms, *pictures, *seconds);
            }
            Event::Validated { step, terms } => {
                self.say(&format!("step {step}: held out {}", measurements(terms)));
            }
            Event::Revived { step, codes } => {
                self.say(&format!("step {step}: revived {codes} codes"));
            }
            Event::Wrote { what, path } => self.say(&format!("{what}: {}", path.display())),
            Event::Note { message } => self.say(message),
            Event::Warning { message } => self.say(&format!("warning: {message}")),
            _ => {}
        }
    }
}

/// Pictures that are encoded before training begins: a line now and then.
struct Encoding {
    what: &'static str,
    /// How many were done when this process began, and when that was.
    begun: (usize, Instant),
    /// When the last line was due.
    said: Instant,
}

impl Encoding {
    fn new(what: &'static str, done: usize, now: Instant) -> Self {
        Self { what, begun: (done, now), said: now }
    }

    /// What there is to say at `now`, if it is time.
    fn line(&mut self, done: usize, pictures: usize, now: Instant) -> Option<String> {
        let (what, (first, begun)) = (self.what, self.begun);
        if done == pictures {
            return Some(format!("encoded {pictures} pictures ({what})"));
        }
        if now - self.said < ENCODING_EVERY {
            return None;
        }
        self.said = now;
        let seconds = (now - begun).as_secs_f64();
        let rate = (done - first) as f64 / seconds;
        let left = if rate > 0.0 { clock((pictures - done) as f64 / rate) } else { "-".to_owned() };
        Some(format!(
            "{}  encoding pictures ({what}): {done}/{pictures}  {rate:.1} images/s  {left} left",
            clock(seconds)
        ))
    }
}

fn measurements(terms: &Terms) -> String {
    let shown = MEASURED.iter().filter_map(|&(name, label, factor, digits, unit)| {
        Some(format!("{label} {:.digits$}{unit}", factor * terms.get(name)?))
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_is_told_now_and_then() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        // A run that goes on after 100 pictures.
        let mut encoding = Encoding::new("train", 100, start);
        assert_eq!(encoding.line(100, 1000, start), None);
        assert_eq!(encoding.line(130, 1000, after(9)), None);
        let line = encoding.line(150, 1000, after(10));
        let expected = "0:00:10  encoding pictures (train): 150/1000  5.0 images/s  0:02:50 left";
        assert_eq!(line.as_deref(), Some(expected));
        assert_eq!(encoding.line(160, 1000, after(19)), None);
        assert!(encoding.line(200, 1000, after(25)).is_some());
        let line = encoding.line(1000, 1000, after(26));
        assert_eq!(line.as_deref(), Some("encoded 1000 pictures (train)"));
    }
}
