//! `cargo xtask bench`: how fast we are, next to what a user could take instead.
//!
//! Every case is run by us, by candle's own ops where there is a plain twin, and
//! by torch and FAISS where a Python has them. They take turns, so that what else
//! the machine does hits all alike, and the medians are compared. All work on the
//! same numbers, and their results are compared too: nobody is fast by computing
//! something else.

mod bandwidth;
mod case;
mod codebook;
mod contest;
mod device;
mod generate;
mod layers;
mod memory;
mod operations;
mod pattern;
mod peak;
mod peer;
mod perceptual;
mod process;
mod report;
mod tool;
mod train;
mod transformer;
mod turns;
mod vqgan;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use candle_core::DType;
use clap::{Args, ValueEnum};
use training::Precision;

use case::Case;
use contest::Contest;
use memory::Peak;
use peer::{Peer, Setup};
use report::Report;
use tool::Tool;
use turns::Turns;

/// A sample repeats its work for so long.
const SAMPLE: Duration = Duration::from_millis(40);

#[derive(Args, Clone)]
pub struct Bench {
    /// What to measure
    subject: Subject,
    /// Threads of everybody; as many as the machine has if not given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Samples of each contestant, of which the median counts
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// One short sample each: shows that everything works, not how fast
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// A Python with torch and faiss-cpu, to compare with; $SYNTH_BENCH_PYTHON or
    /// python3 if not given
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Compare only with tools of these names, which are the table's
    #[arg(long, value_name = "NAME")]
    against: Vec<String>,
    /// Take turns with other benches on this machine that name the same file: they prepare
    /// together, and each measures alone
    #[arg(long, value_name = "FILE")]
    turns: Option<PathBuf>,
    /// Compare peak memory only: vqgan (which does so in the end anyway), train
    #[arg(long)]
    memory: bool,
    /// One line of JSON per case on stdout, the table on stderr
    #[arg(long)]
    json: bool,
    /// What vqgan and train compute in with us, and one of torch's; the others stay at f32
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// Where everybody computes; cuda needs a build with the feature of that name
    #[arg(long, value_enum, default_value_t = Place::Cpu)]
    device: Place,
    /// On a GPU: let ours round factors to TF32, as torch does in convolutions anyway
    #[arg(long)]
    tf32: bool,
    /// Print our memory before and after the work whose memory is compared, and nothing
    /// else
    #[arg(long, hide = true)]
    own_memory: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    Cpu,
    Cuda,
}

impl Place {
    /// As torch has it.
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::BF16,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Convolutions, norms, upsampling and attention, forward and backward
    Layers,
    /// The nearest-code search
    Codebook,
    /// Encoder, decoder and round trip of imagenet-f16-16384 at 256x256
    Vqgan,
    /// A training step of a small VQGAN with its discriminator, and of transformers
    Train,
    /// 256 codes of a 12-layer transformer, and the sliding window
    Generate,
    /// All of codebook, vqgan, train and generate on an NVIDIA GPU
    Gpu,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Layers => "layers",
            Self::Codebook => "codebook",
            Self::Vqgan => "vqgan",
            Self::Train => "train",
            Self::Generate => "generate",
            Self::Gpu => "gpu",
        }
    }

    fn cases(self, dtype: DType) -> Result<Vec<Case>> {
        match self {
            Self::Layers => Ok(layers::cases()),
            Self::Codebook => Ok(codebook::cases()),
            Self::Vqgan => vqgan::cases(dtype),
            Self::Train => {
                let precision = match dtype {
                    DType::F32 => Precision::F32,
                    _ => Precision::Bf16,
                };
                let mut cases = train::cases(precision)?;
                cases.extend(perceptual::cases(precision));
                cases.extend(transformer::cases(precision)?);
                Ok(cases)
            }
            Self::Generate => Ok(generate::cases()),
            Self::Gpu => Ok(Vec::new()),
        }
    }

    /// The program of the Python that competes.
    fn script(self) -> &'static [&'static str] {
        const NETWORK: &str = include_str!("../peers/network.py");
        match self {
            Self::Layers => &[include_str!("../peers/layers.py")],
            Self::Codebook => &[include_str!("../peers/codebook.py")],
            Self::Vqgan => &[NETWORK, include_str!("../peers/vqgan.py")],
            Self::Train => {
                const LPIPS: &str = include_str!("../peers/lpips.py");
                &[
                    NETWORK,
                    include_str!("../peers/gpt.py"),
                    LPIPS,
                    include_str!("../peers/train.py"),
                ]
            }
            Self::Generate => &[
                include_str!("../peers/mingpt.py"),
                include_str!("../peers/llamagen.py"),
                include_str!("../peers/generate.py"),
            ],
            Self::Gpu => &[],
        }
    }

    /// The work whose peak memory is compared.
    fn memory_work(self, dtype: DType) -> Result<MemoryWork> {
        match self {
            Self::Vqgan => {
                let request = vqgan::memory_request(dtype)?;
                Ok(MemoryWork { what: "makes one round trip", request })
            }
            Self::Train => Ok(MemoryWork {
                what: "makes one step of the f16 model, 256x256, batch 1",
                request: train::memory_request(),
            }),
            Self::Layers | Self::Codebook | Self::Generate | Self::Gpu => {
                bail!("{} compares no memory", self.name())
            }
        }
    }

    /// Who competes with us: candle where there is a twin from its own ops.
    fn tools(self) -> &'static [Tool] {
        match self {
            Self::Layers => &[Tool::Candle, Tool::Torch, Tool::TorchChannelsLast],
            Self::Codebook => &[Tool::Candle, Tool::Torch, Tool::Faiss],
            Self::Vqgan => &[Tool::Torch, Tool::TorchChannelsLast, Tool::TorchHalf],
            Self::Train => &[Tool::Torch, Tool::TorchChannelsLast, Tool::TorchHalf],
            Self::Generate => &[Tool::MinGpt, Tool::LlamaGen, Tool::LlamaGenCompiled],
            Self::Gpu => &[],
        }
    }
}

/// Some work whose peak memory is compared.
struct MemoryWork {
    /// In words, behind "a process that".
    what: &'static str,
    /// For Python.
    request: serde_json::Value,
}

impl Bench {
    /// Measures and prints.
    pub fn run(self) -> Result<()> {
        let threads = match self.threads {
            Some(threads) => usize::from(threads),
            None => std::thread::available_parallelism()?.get(),
        };
        if !process::has_threads(threads) {
            return process::go_on_with(threads);
        }
        if self.device == Place::Cuda || self.subject == Subject::Gpu {
            device::set_cuda().context("no CUDA to measure (see docs/gpu.md)")?;
            ::layers::cuda::allow_tf32(self.tf32);
        }
        if self.subject == Subject::Gpu {
            let subjects = [Subject::Codebook, Subject::Vqgan, Subject::Train, Subject::Generate];
            return subjects.into_iter().try_for_each(|subject| {
                Self { subject, device: Place::Cuda, ..self.clone() }.contest(threads)
            });
        }
        self.contest(threads)
    }

    fn contest(self, threads: usize) -> Result<()> {
        if self.own_memory {
            let Peak { bare, peak } = match self.subject {
                Subject::Train => train::step_memory()?,
                _ => vqgan::round_trip_memory(self.dtype.into())?,
            };
            println!("{bare} {peak}");
            return Ok(());
        }
        if self.memory {
            let work = self.subject.memory_work(self.dtype.into())?;
            let tools = self.tools()?;
            let report = Report::new(self.subject.name(), threads, 0.0, &tools, self.json);
            return self.compare_memory(threads, work, &report);
        }

        let mut cases = self.subject.cases(self.dtype.into())?;
        cases.retain(|case| case.name.contains(&self.only));
        if cases.is_empty() && self.device == Place::Cuda {
            return Ok(());
        }
        if cases.is_empty() {
            bail!("no case of {} is called {:?}", self.subject.name(), self.only);
        }
        let setup = Setup {
            python: self.python.clone(),
            script: self.subject.script(),
            threads,
            device: self.device.name(),
            cases: cases.iter().map(|case| case.request.clone()).collect(),
        };
        let turns = Turns::new(self.turns.as_deref())?;
        let (mut peer, about) = Peer::start(&setup)?;
        let tools = self.tools()?;
        let together = turns.prepare()?;
        let (peak, of) = self.peak(threads)?;
        drop(together);
        let mut report = Report::new(self.subject.name(), threads, peak, &tools, self.json);
        report.say(&format!(
            "{threads} threads; {of} peak {peak:.0} GFLOP/s; against {about}; medians of {}",
            self.samples()
        ));
        if self.subject == Subject::Generate && self.device == Place::Cpu {
            report.say(&generate::limits(threads));
        }
        report.header(cases.iter().map(|case| case.name.as_str()));
        let mut contest = Contest {
            tools: &tools,
            turns: &turns,
            samples: self.samples(),
            seconds: if self.quick { Duration::ZERO } else { SAMPLE },
            peer: &mut peer,
            known: HashMap::new(),
        };
        for (index, case) in cases.into_iter().enumerate() {
            report.row(&contest.hold(index, case)?);
        }
        // A peak that has moved says how quiet the machine was.
        let alone = turns.measure()?;
        report.say(&format!("{of} peak at the end {:.0} GFLOP/s", self.peak(threads)?.0));
        drop(alone);
        drop(peer);
        if self.subject == Subject::Vqgan && self.only.is_empty() {
            let work = self.subject.memory_work(self.dtype.into())?;
            self.compare_memory(threads, work, &report)?;
        }
        Ok(())
    }

    /// GFLOP/s that nobody exceeds, and in what: on a GPU that of its tensor cores.
    fn peak(&self, threads: usize) -> Result<(f64, &'static str)> {
        Ok(match self.device {
            Place::Cpu => (peak::gflops(threads), "f32"),
            Place::Cuda => (device::tensor_gflops()?, "bf16"),
        })
    }

    /// Who competes, of those that were asked for.
    fn tools(&self) -> Result<Vec<Tool>> {
        let mut all = self.subject.tools().to_vec();
        all.retain(|tool| *tool != Tool::TorchHalf || DType::from(self.dtype) != DType::F32);
        let named = |tool: &&Tool| self.against.iter().any(|name| tool.name() == name);
        if self.against.is_empty() {
            return Ok(all);
        }
        let tools: Vec<_> = all.iter().filter(named).copied().collect();
        if tools.len() < self.against.len() {
            let names: Vec<_> = all.iter().map(|tool| tool.name()).collect();
            bail!("--against: {} is compared with {}", self.subject.name(), names.join(", "));
        }
        Ok(tools)
    }

    fn samples(&self) -> usize {
        if self.quick { 1 } else { usize::from(self.repeat) }
    }

    /// Peak memory of `work`, each contestant in a process of its own.
    fn compare_memory(&self, threads: usize, work: MemoryWork, report: &Report) -> Result<()> {
        let setup = Setup {
            python: self.python.clone(),
            script: self.subject.script(),
            threads,
            device: self.device.name(),
            cases: vec![work.request],
        };
        let ours = process::memory_of_ours(threads, &self.memory_arguments(threads))?;
        let mut peaks = vec![("ours", Some(ours))];
        for tool in self.tools()? {
            let (mut peer, _) = Peer::start(&setup)?;
            let peak = match &mut peer {
                Some(peer) => {
                    let bare = peer.peak_memory()?;
                    let done = peer.warm_up(0, tool)?.map(|_| peer.peak_memory());
                    done.transpose()?.map(|peak| Peak { bare, peak })
                }
                None => None,
            };
            peaks.push((tool.name(), peak));
        }
        report.memory(work.what, &peaks);
        Ok(())
    }

    /// What a process that does only the work of this subject is told: the subject may be
    /// one of several that were asked for.
    fn memory_arguments(&self, threads: usize) -> Vec<String> {
        fn name(value: &impl ValueEnum) -> String {
            value.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
        }
        let mut arguments = vec!["bench".to_owned(), name(&self.subject)];
        for (option, value) in [
            ("--threads", threads.to_string()),
            ("--device", name(&self.device)),
            ("--dtype", name(&self.dtype)),
        ] {
            arguments.extend([option.to_owned(), value]);
        }
        arguments.extend(self.tf32.then(|| "--tf32".to_owned()));
        arguments
    }
}
