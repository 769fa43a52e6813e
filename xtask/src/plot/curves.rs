//! The numbers of runs, arranged by what is drawn together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// What stands in a line besides terms.
const NO_TERMS: [&str; 4] = ["step", "kind", "time", "pictures"];
/// Terms that come first, in this order; the rest follow by name.
const FIRST: [&str; 15] = [
    "total_loss",
    "nll",
    "loss",
    "val_nll",
    "val_psnr",
    "val_accuracy",
    "val_mean_iou",
    "val_lpips",
    "val_l1",
    "pixel_loss",
    "bce_loss",
    "p_loss",
    "quant_loss",
    "val_usage",
    "val_perplexity",
];

/// (step, value), by step.
pub type Curve = Vec<(f64, f64)>;

/// One run's numbers: curves by kind of line and term.
pub struct Run {
    pub name: String,
    curves: BTreeMap<(String, String), Curve>,
}

/// What is drawn in one coordinate system.
pub struct Panel {
    pub title: String,
    /// The curves of each run: in training, and on held-out pictures.
    pub runs: Vec<(Curve, Curve)>,
}

impl Run {
    /// Reads `metrics.jsonl` of the run folder `path`. A last line that is cut short, of a
    /// run that is being written, is left out.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.join("metrics.jsonl");
        ensure!(path.is_dir(), "{}: no such run folder", path.display());
        let text = std::fs::read_to_string(&file).with_context(|| {
            format!("{}: no run folder, or nothing was logged yet", file.display())
        })?;
        let mut curves = BTreeMap::<_, Curve>::new();
        let last = text.lines().count();
        for (i, line) in text.lines().enumerate() {
            let line: Value = match serde_json::from_str(line) {
                Ok(line) => line,
                Err(_) if i + 1 == last => continue,
                Err(error) => bail!("{}:{}: {error}", file.display(), i + 1),
            };
            let (Some(step), Some(kind)) = (line["step"].as_f64(), line["kind"].as_str()) else {
                bail!("{}:{}: a line without step and kind", file.display(), i + 1);
            };
            for (term, value) in line.as_object().into_iter().flatten() {
                let value = value.as_f64().filter(|value| value.is_finite());
                if let (Some(value), false) = (value, NO_TERMS.contains(&term.as_str())) {
                    let key = (kind.to_string(), term.clone());
                    curves.entry(key).or_default().push((step, value));
                }
            }
        }
        let canonical = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let name = canonical.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { name, curves })
    }

    fn curve(&self, kind: &str, term: &str) -> Curve {
        let key = (kind.to_string(), term.to_string());
        self.curves.get(&key).cloned().unwrap_or_default()
    }
}

/// A panel for each of `terms`, or for every one that changes; a term and its `val_` twin
/// (of `bce_loss`, `val_bce`) share one.
///
/// # Errors
/// A term that no run has.
pub fn panels(runs: &[Run], terms: &[String]) -> Result<Vec<Panel>> {
    let known: BTreeSet<&str> =
        runs.iter().flat_map(|run| run.curves.keys().map(|(_, term)| term.as_str())).collect();
    if let Some(unknown) = terms.iter().find(|term| !known.contains(term.as_str())) {
        let known: Vec<&str> = known.into_iter().collect();
        bail!("no run has a term {unknown}; there are {}", known.join(", "));
    }
    let mut order: Vec<&str> = match terms.is_empty() {
        false => terms.iter().map(String::as_str).collect(),
        true => known.iter().copied().collect(),
    };
    if terms.is_empty() {
        let place = |term: &&str| FIRST.iter().position(|f| f == term).unwrap_or(FIRST.len());
        order.sort_by_key(place);
        // Drawn with its twin.
        order.retain(|term| {
            !known.iter().any(|other| twins(other).iter().any(|twin| twin.as_str() == *term))
        });
    }
    let panel = |term: &str| {
        let of_run = |run: &Run| {
            let mut held_out = run.curve("validation", term);
            for twin in twins(term) {
                if held_out.is_empty() && !terms.contains(&twin) {
                    held_out = run.curve("validation", &twin);
                }
            }
            let mut trained = run.curve("train", term);
            if trained.is_empty() && held_out.is_empty() {
                let others = run.curves.iter().filter(|((_, name), _)| name == term);
                trained = others.flat_map(|(_, curve)| curve.iter().copied()).collect();
            }
            (trained, held_out)
        };
        Panel { title: term.to_string(), runs: runs.iter().map(of_run).collect() }
    };
    let mut panels: Vec<Panel> = order.into_iter().map(panel).collect();
    panels.retain(|panel| match terms.is_empty() {
        true => panel.changes(),
        false => panel.points().next().is_some(),
    });
    if terms.is_empty() {
        // A sum of one loss is that loss, and drawn once: where it is measured, too.
        let alike = |i: usize| {
            panels.iter().enumerate().any(|(j, other)| {
                j != i && panels[i].is_within(other) && (j < i || !other.is_within(&panels[i]))
            })
        };
        let repeated: Vec<bool> = (0..panels.len()).map(alike).collect();
        let mut repeated = repeated.into_iter();
        panels.retain(|_| !repeated.next().unwrap_or(false));
    }
    Ok(panels)
}

/// What `term` is called on held-out pictures.
fn twins(term: &str) -> [String; 2] {
    [format!("val_{term}"), format!("val_{}", term.strip_suffix("_loss").unwrap_or(term))]
}

impl Panel {
    /// All points of all curves.
    pub fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.runs.iter().flat_map(|(a, b)| a.iter().chain(b).copied())
    }

    /// Whether all its curves are in `other`.
    fn is_within(&self, other: &Self) -> bool {
        let within = |ours: &Curve, theirs: &Curve| ours.is_empty() || ours == theirs;
        let pairs = self.runs.iter().zip(&other.runs);
        pairs.into_iter().all(|(a, b)| within(&a.0, &b.0) && within(&a.1, &b.1))
    }

    /// Whether there is more than one value, at more than one step.
    fn changes(&self) -> bool {
        let Some((step, value)) = self.points().next() else { return false };
        self.points().any(|(_, v)| v != value) && self.points().any(|(s, _)| s != step)
    }
}

/// An exponential average that starts at the first value; `share` is the newest value's.
pub fn smoothed(curve: &Curve, share: f64) -> Curve {
    let mut average = None;
    let step = |&(step, value): &(f64, f64)| {
        let next = average.map_or(value, |old: f64| old + share * (value - old));
        average = Some(next);
        (step, next)
    };
    curve.iter().map(step).collect()
}

/// The share by which a curve of `len` points is smoothed enough to be read.
pub fn natural_share(len: usize) -> f64 {
    (40.0 / len.max(1) as f64).clamp(0.02, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(dir: &Path, lines: &str) -> Result<Run> {
        std::fs::write(dir.join("metrics.jsonl"), lines)?;
        Run::read(dir)
    }

    #[test]
    fn terms_become_panels() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let lines = r#"{"step":1,"kind":"train","time":1.0,"l1":0.5,"lr":0.1,"aa":1,"zz":1}
{"step":2,"kind":"train","time":2.0,"l1":0.4,"lr":0.1,"aa":2,"zz":2,"bad":null}
{"step":2,"kind":"validation","val_l1":0.45,"val_psnr":20}
{"step":4,"kind":"validation","val_l1":0.35,"val_psnr":21}
{"step":5,"kind":"tr"#;
        let runs = [run(dir.path(), lines)?];
        let all = panels(&runs, &[])?;
        let titles: Vec<_> = all.iter().map(|panel| panel.title.as_str()).collect();
        assert_eq!(titles, ["val_psnr", "aa", "l1"]);
        let (trained, held_out) = &all[2].runs[0];
        assert_eq!(*trained, [(1.0, 0.5), (2.0, 0.4)]);
        assert_eq!(*held_out, [(2.0, 0.45), (4.0, 0.35)]);
        let some = panels(&runs, &["lr".to_string()])?;
        assert_eq!(some[0].runs[0].0, [(1.0, 0.1), (2.0, 0.1)]);
        let error = panels(&runs, &["psnr".to_string()]).err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("val_psnr")));
        let lines = r#"{"step":1,"kind":"train","total_loss":0.9,"bce_loss":0.5,"nll_loss":0.5}
{"step":2,"kind":"train","total_loss":0.8,"bce_loss":0.4,"nll_loss":0.4}
{"step":1,"kind":"validation","val_bce":0.45,"val_accuracy":0.5}
{"step":2,"kind":"validation","val_bce":0.35,"val_accuracy":0.6}"#;
        let all = panels(&[run(dir.path(), lines)?], &[])?;
        let titles: Vec<_> = all.iter().map(|panel| panel.title.as_str()).collect();
        assert_eq!(titles, ["total_loss", "val_accuracy", "bce_loss"]);
        assert_eq!(all[2].runs[0].1, [(1.0, 0.45), (2.0, 0.35)]);
        assert!(run(dir.path(), "{\"step\":1}\n{}\n").is_err());
        assert!(Run::read(&dir.path().join("no")).is_err());
        Ok(())
    }

    #[test]
    fn smoothing_follows_slowly() {
        let curve = vec![(0.0, 1.0), (1.0, 3.0), (2.0, 3.0)];
        assert_eq!(smoothed(&curve, 0.5), [(0.0, 1.0), (1.0, 2.0), (2.0, 2.5)]);
        assert_eq!(smoothed(&curve, 1.0), curve);
        assert_eq!((natural_share(10), natural_share(400)), (1.0, 0.1));
    }
}
