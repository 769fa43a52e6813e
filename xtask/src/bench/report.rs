//! The table, and the same as JSON.

use serde_json::{Map, Value, json};

use super::Tool;
use super::contest::{Outcome, Times};
use super::memory::Peak;

/// Prints rows as they come.
pub struct Report {
    bench: &'static str,
    threads: usize,
    peak: f64,
    tools: Vec<Tool>,
    json: bool,
    name_width: usize,
}

impl Report {
    /// A report of `bench` by `threads` threads on a machine of `peak` GFLOP/s;
    /// outcomes list the rivals in the order of `tools`.
    pub fn new(bench: &'static str, threads: usize, peak: f64, tools: &[Tool], json: bool) -> Self {
        Self { bench, threads, peak, tools: tools.to_vec(), json, name_width: 0 }
    }

    /// A line for people.
    pub fn say(&self, line: &str) {
        if self.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }

    /// The titles; the first column is wide enough for `names`.
    pub fn header<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        self.name_width = names.map(|name| name.chars().count()).max().unwrap_or(0);
        let mut cells = vec!["ours ms".to_owned(), "GFLOP/s".to_owned(), "of peak".to_owned()];
        for column in self.columns() {
            cells.push(match column {
                Column::Time(i) => format!("{} ms", short(self.tools[i])),
                Column::Ratio(group) => format!("ours/{}", short(group[0].1)),
                Column::Apart => "apart".to_owned(),
            });
        }
        self.line("", &cells);
    }

    /// One row.
    pub fn row(&self, outcome: &Outcome) {
        let ours = outcome.ours.median();
        let speed = outcome.flops.map(|flops| flops / ours / 1e9);
        let mut cells = vec![
            milliseconds(Some(ours)),
            or_dash(speed, |speed| format!("{speed:.0}")),
            or_dash(speed, |speed| format!("{:.0} %", 100.0 * speed / self.peak)),
        ];
        let median = |i: usize| outcome.rivals[i].as_ref().map(|(times, _)| times.median());
        for column in self.columns() {
            cells.push(match column {
                Column::Time(i) => milliseconds(median(i)),
                Column::Ratio(group) => {
                    let best = group.iter().filter_map(|&(i, _)| median(i)).reduce(f64::min);
                    or_dash(best, |best| format!("{:.2}", ours / best))
                }
                Column::Apart => apart(outcome),
            });
        }
        self.line(&outcome.name, &cells);
        if self.json {
            println!("{}", self.value(outcome));
        }
    }

    /// Peak memory of each one's round trip.
    pub fn memory(&self, what: &str, peaks: &[(&str, Option<Peak>)]) {
        let mib = |kib: u64| format!("{:.0} MiB", kib as f64 / 1024.0);
        for (name, peak) in peaks {
            let peak = or_dash(*peak, |Peak { bare, peak }| {
                format!("{}, {} of them before there is a model", mib(peak), mib(bare))
            });
            self.say(&format!("peak memory of a process that {what}, {name}: {peak}"));
        }
        if self.json {
            let value = |peak: Peak| json!({ "bare_kib": peak.bare, "peak_kib": peak.peak });
            let peaks: Map<_, _> = peaks
                .iter()
                .map(|(name, peak)| ((*name).to_owned(), json!(peak.map(value))))
                .collect();
            println!("{}", json!({ "bench": self.bench, "memory": peaks }));
        }
    }

    fn value(&self, outcome: &Outcome) -> Value {
        let mut tools = Map::new();
        let mut add = |name: &str, times: &Times, apart: Option<f64>| {
            let value =
                json!({ "median_s": times.median(), "all_s": times.seconds(), "apart": apart });
            tools.insert(name.to_owned(), value);
        };
        add("ours", &outcome.ours, None);
        for (tool, rival) in self.tools.iter().zip(&outcome.rivals) {
            if let Some((times, apart)) = rival {
                add(tool.name(), times, *apart);
            }
        }
        json!({
            "bench": self.bench, "case": outcome.name, "threads": self.threads,
            "peak_gflops": self.peak, "flops": outcome.flops, "tools": tools,
        })
    }

    /// Times of the tools, each library's followed by the ratio to its fastest.
    fn columns(&self) -> Vec<Column> {
        let mut columns = Vec::new();
        let all: Vec<_> = self.tools.iter().copied().enumerate().collect();
        for group in all.chunk_by(|a, b| library(a.1) == library(b.1)) {
            columns.extend(group.iter().map(|&(i, _)| Column::Time(i)));
            columns.push(Column::Ratio(group.to_vec()));
        }
        columns.push(Column::Apart);
        columns
    }

    fn line(&self, name: &str, cells: &[String]) {
        let padding = " ".repeat(self.name_width.saturating_sub(name.chars().count()));
        let cells: String = cells.iter().map(|cell| format!(" {cell:>12}")).collect();
        self.say(&format!("{name}{padding}{cells}"));
    }
}

/// A column after our own.
enum Column {
    /// The time of the tool of this number.
    Time(usize),
    /// Our time over that of the fastest of these.
    Ratio(Vec<(usize, Tool)>),
    /// The largest difference of results.
    Apart,
}

/// Tools of one library share a ratio: a user would take the faster.
fn library(tool: Tool) -> &'static str {
    match tool {
        Tool::Candle => "candle",
        Tool::Torch
        | Tool::TorchChannelsLast
        | Tool::MinGpt
        | Tool::LlamaGen
        | Tool::LlamaGenCompiled => "torch",
        Tool::TorchHalf => "half",
        Tool::Faiss => "faiss",
    }
}

/// The name in a title.
fn short(tool: Tool) -> &'static str {
    match tool {
        Tool::TorchChannelsLast => "torch NHWC",
        Tool::LlamaGenCompiled => "compiled",
        tool => tool.name(),
    }
}

fn milliseconds(seconds: Option<f64>) -> String {
    or_dash(seconds, |seconds| {
        let ms = 1e3 * seconds;
        let decimals = if ms < 10.0 { 3 } else { 1 };
        format!("{ms:.decimals$}")
    })
}

/// The largest difference, marked where it is too large.
fn apart(outcome: &Outcome) -> String {
    let worst = outcome.rivals.iter().flatten().filter_map(|(_, apart)| *apart);
    let worst = worst.reduce(|a, b| if a.is_nan() || a > b { a } else { b });
    or_dash(worst, |worst| {
        // Not `>`: NaN is marked too.
        let mark = if worst <= outcome.results.tolerance() { "" } else { "!" };
        format!("{mark}{worst:.0e}")
    })
}

fn or_dash<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}
