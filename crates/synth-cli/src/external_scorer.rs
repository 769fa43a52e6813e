//! `--scorer`: another program that says how good pictures are.
//!
//! It is started once, so that it loads its model once. For every picture it gets a line of
//! JSON on stdin, and it answers each with a number on a line of stdout, in the same order.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use image_data::save_png;
use pipeline::{Candidate, Generator, Scorer};
use serde_json::json;

use crate::table::shown;

/// The longest line that is read of what a scorer prints.
const MAX_LINE_BYTES: u64 = 4096;
/// What stdout is for.
const FOR_NUMBERS: &str = "stdout is for one number a picture, what else it says goes to stderr";
/// How much of an answer a message shows.
const SHOWN_CHARS: usize = 60;
/// Lines of a scorer's stderr that a message shows: the last ones say what went wrong.
const LAST_WORDS: usize = 3;
/// How long a scorer may take to end when it has nothing left to do.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often it is looked whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A scorer that is another program.
pub struct ExternalScorer<'a> {
    generator: &'a Generator,
    command: String,
    patience: Duration,
    program: Program,
    /// Where the pictures are that it is to look at; gone with this.
    folder: tempfile::TempDir,
}

impl<'a> ExternalScorer<'a> {
    /// Starts `command`. It has `patience` for every batch of pictures, its start included.
    ///
    /// # Errors
    /// When it is no command, or cannot be started.
    pub fn start(generator: &'a Generator, command: &str, patience: Duration) -> Result<Self> {
        let refuse = |what: String| refusal(command, &what);
        // Not a shell, so that ending the program ends it and not the shell around it.
        let words = shlex::split(command).filter(|words| !words.is_empty());
        let words = words.ok_or_else(|| {
            refuse("a quote is not closed, it ends with a backslash, or it is empty".to_owned())
        })?;
        let program = Program::start(&words).map_err(|error| {
            let name = shown(&words[0]);
            refuse(format!("{name:?} cannot be started: {error}; name a program that is there"))
        })?;
        let folder = tempfile::Builder::new().prefix("synth-scorer-").tempdir();
        let folder = folder.map_err(|error| refuse(format!("no temporary folder: {error}")))?;
        Ok(Self { generator, command: command.to_owned(), patience, program, folder })
    }

    fn ask(&mut self, candidates: &[Candidate<'_>]) -> std::result::Result<Vec<f64>, String> {
        if let Ok(line) = self.program.answers.try_recv() {
            return Err(format!("it printed {} without being asked: {FOR_NUMBERS}", start(&line)));
        }
        for (number, candidate) in candidates.iter().enumerate() {
            let picture = candidate.picture.as_ref().ok_or("it has no picture to look at")?;
            let path = self.folder.path().join(format!("{number}.png"));
            save_png(&path, picture, &[], true).map_err(|error| error.to_string())?;
            let question = json!({
                "path": path,
                "kind": self.generator.config().condition.kind(),
                "condition": candidate.words,
                "class": self.generator.class_of(candidate.front),
            });
            // A program that has ended does not take it; that it has is found out below.
            let _ = self.program.questions.as_ref().map(|to| to.send(format!("{question}\n")));
        }
        let until = Instant::now() + self.patience;
        candidates.iter().map(|_| self.answer(until)).collect()
    }

    fn answer(&mut self, until: Instant) -> std::result::Result<f64, String> {
        let left = until.saturating_duration_since(Instant::now());
        let line = match self.program.answers.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!(
                    "no answer in {} seconds: it must answer every line that it gets with a \
                     number on a line of stdout, before it waits for the next, and flush it; \
                     --scorer-timeout gives it longer",
                    self.patience.as_secs()
                ));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(self.program.ending()),
        };
        match line.trim().parse::<f64>() {
            Ok(score) if score.is_finite() => Ok(score),
            _ => Err(format!("its answer {} is no finite number: {FOR_NUMBERS}", start(&line))),
        }
    }
}

impl Scorer for ExternalScorer<'_> {
    fn score(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>> {
        self.ask(candidates).map_err(|what| refusal(&self.command, &what))
    }
}

type Result<T> = pipeline::Result<T>;

/// The start of a line, for a message.
fn start(line: &str) -> String {
    format!("{:?}", line.trim().chars().take(SHOWN_CHARS).collect::<String>())
}

fn refusal(command: &str, what: &str) -> pipeline::Error {
    pipeline::Error::Scorer(format!("--scorer {:?}: {what}", shown(command)))
}

/// A program that answers, with a thread for each of its streams: whichever of them is
/// full or silent, none keeps us from ending it in time.
struct Program {
    child: Child,
    questions: Option<Sender<String>>,
    answers: Receiver<String>,
    last_words: Arc<Mutex<VecDeque<String>>>,
    /// The reader of stderr.
    listener: Option<JoinHandle<()>>,
}

impl Program {
    fn start(words: &[String]) -> std::io::Result<Self> {
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (questions, asked) = channel::<String>();
        let (answered, answers) = channel();
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(mut stdin) = child.stdin.take() {
            std::thread::spawn(move || {
                for question in asked {
                    if stdin.write_all(question.as_bytes()).and_then(|()| stdin.flush()).is_err() {
                        break;
                    }
                }
            });
        }
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || each_line(stdout, |line| answered.send(line).is_ok()));
        }
        let listener = child.stderr.take().map(|stderr| {
            let last_words = Arc::clone(&last_words);
            std::thread::spawn(move || {
                each_line(stderr, |line| {
                    let mut words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
                    if !line.trim().is_empty() {
                        words.push_back(line.trim().to_owned());
                    }
                    if words.len() > LAST_WORDS {
                        words.pop_front();
                    }
                    true
                });
            })
        });
        Ok(Self { child, questions: Some(questions), answers, last_words, listener })
    }

    /// How it ended, of a program that answers no more.
    fn ending(&mut self) -> String {
        let mut text = match self.wait(FAREWELL) {
            Some(status) => format!("it ended ({status}) before it had answered"),
            None => "it closed its stdout before it had answered".to_owned(),
        };
        // What it leaves running may hold its stderr open: that is not waited for.
        let until = Instant::now() + FAREWELL;
        while self.listener.as_ref().is_some_and(|listener| !listener.is_finished())
            && Instant::now() < until
        {
            std::thread::sleep(LOOK_EVERY);
        }
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        if !words.is_empty() {
            let words: Vec<_> = words.iter().map(|line| shown(line)).collect();
            text += &format!("; it said: {}", words.join(" / "));
        }
        text
    }

    /// Waits for its end.
    fn wait(&mut self, patience: Duration) -> Option<std::process::ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => std::thread::sleep(LOOK_EVERY),
                _ => return None,
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The end of its stdin tells it that it is done.
        self.questions = None;
        if self.wait(FAREWELL).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Gives each line of `stream` to `take`, until it wants no more; cut where it is too long.
fn each_line(stream: impl Read, mut take: impl FnMut(String) -> bool) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match stream.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(1..) if take(String::from_utf8_lossy(&line).into_owned()) => (),
            _ => return,
        }
    }
}
