//! The Python that competes: a process that answers one line per request.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Tool;

/// The variable that names a Python.
const PYTHON: &str = "SYNTH_BENCH_PYTHON";
const PROTOCOL: &str = include_str!("../../peers/protocol.py");

/// What to start.
pub struct Setup {
    /// The Python asked for.
    pub python: Option<PathBuf>,
    /// The program after the protocol, in parts.
    pub script: &'static [&'static str],
    /// Its threads.
    pub threads: usize,
    /// Where it computes: cpu or cuda.
    pub device: &'static str,
    /// What it will be asked for, by number.
    pub cases: Vec<Value>,
}

/// A Python at work; it ends with its standard input.
pub struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts a Python if there is one with torch, and says what it has; or how
    /// to come by one.
    ///
    /// # Errors
    /// If a Python was asked for and does not start, or one breaks off.
    pub fn start(setup: &Setup) -> Result<(Option<Self>, String)> {
        let asked = setup.python.clone().or_else(|| std::env::var_os(PYTHON).map(PathBuf::from));
        let python = asked.clone().unwrap_or_else(|| PathBuf::from("python3"));
        let missing = |why: &str| {
            let advice = format!(
                "nobody else ({}: {why}; to compare: python3 -m venv V && V/bin/pip install torch \
                 faiss-cpu numpy, then --python V/bin/python)",
                python.display()
            );
            Ok((None, advice))
        };
        let mut peer = match Self::spawn(&python, setup) {
            Ok(peer) => peer,
            Err(error) if asked.is_none() => return missing(&error.to_string()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot start {}", python.display()));
            }
        };
        let answer = peer.ask(&json!({
            "threads": setup.threads, "device": setup.device, "cases": setup.cases,
        }))?;
        if let Some(why) = answer["missing"].as_str() {
            return missing(why);
        }
        let about = answer["about"].as_array().context("Python did not introduce itself")?;
        let about: Vec<_> = about.iter().filter_map(Value::as_str).collect();
        Ok((Some(peer), about.join(", ")))
    }

    fn spawn(python: &Path, setup: &Setup) -> Result<Self> {
        let script = [&[PROTOCOL], setup.script].concat().join("\n");
        let threads = setup.threads.to_string();
        let mut child = Command::new(python)
            .args(["-c", &script])
            .env("OMP_NUM_THREADS", &threads)
            .env("MKL_NUM_THREADS", &threads)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("Python has no standard output")?;
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    fn ask(&mut self, request: &Value) -> Result<Value> {
        // It may have ended after an answer that this request does not matter for.
        let sent = match &mut self.input {
            Some(input) => writeln!(input, "{request}").and_then(|()| input.flush()),
            None => Ok(()),
        };
        let mut line = String::new();
        self.output.read_line(&mut line).context("cannot read Python's answer")?;
        if line.is_empty() {
            sent.context("Python ended")?;
            bail!("Python ended instead of answering; what it said is above");
        }
        serde_json::from_str(&line).with_context(|| format!("Python answered {line:?}"))
    }

    /// Prepares `case` and runs it once: some numbers of its results, or `None`
    /// where the tool cannot do it.
    ///
    /// # Errors
    /// If Python breaks off.
    pub fn warm_up(&mut self, case: usize, tool: Tool) -> Result<Option<Vec<Vec<f64>>>> {
        let mut answer = self.ask(&json!({ "case": case, "tool": tool.name() }))?;
        match answer.get_mut("values") {
            Some(values) => Ok(Some(serde_json::from_value(values.take())?)),
            None => Ok(None),
        }
    }

    /// The time of a run of a prepared case, repeated for `least`.
    ///
    /// # Errors
    /// If Python breaks off.
    pub fn sample(&mut self, case: usize, tool: Tool, least: Duration) -> Result<Duration> {
        let request = json!({ "case": case, "tool": tool.name(), "seconds": least.as_secs_f64() });
        let answer = self.ask(&request)?;
        let seconds = answer["seconds"].as_f64().context("Python answered without a time")?;
        Ok(Duration::try_from_secs_f64(seconds)?)
    }

    /// The peak of its resident memory, in KiB.
    ///
    /// # Errors
    /// If Python breaks off.
    pub fn peak_memory(&mut self) -> Result<u64> {
        let answer = self.ask(&json!({ "memory": true }))?;
        answer["peak"].as_u64().context("Python answered without a peak")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.input.take());
        // Nobody is left to tell; not waiting would leave a zombie.
        let _ = self.child.wait();
    }
}
