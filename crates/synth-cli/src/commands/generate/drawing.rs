//! A plan, drawn in batches.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use image_data::{grid, save_png};
use pipeline::{
    Candidate, CodeGrid, DrawRequest, Generator, RgbImage, Scorer, Stream, Wavefront, paste,
};
use serde_json::json;

use super::plan::{Plan, Task};
use super::preview::Previews;
use super::progress::Progress;
use crate::args::GenerateArgs;
use crate::exit::Outcome;
use crate::generation_recipe::Recipe;
use crate::output_plan::make_folder_of;
use crate::report::print_line;
use crate::session::Session;
use crate::table::{Column, Table, shown};

/// White pixels between the pictures of a sheet.
const GAP: u32 = 2;
/// Candidates have streams of their own: this many pictures fit in a run.
const CANDIDATE_STRIDE: u64 = 1 << 32;

/// Draws a plan and writes it.
pub struct Drawing<'a> {
    session: &'a Session,
    args: &'a GenerateArgs,
    generator: &'a Generator,
}

impl<'a> Drawing<'a> {
    /// With these options.
    pub fn new(session: &'a Session, args: &'a GenerateArgs, generator: &'a Generator) -> Self {
        Self { session, args, generator }
    }

    /// Draws everything, writing each batch when it is done. `scorer` chooses where there are
    /// several candidates.
    ///
    /// # Errors
    /// When drawing, choosing or writing fails; what is written already stays.
    pub fn run(&self, plan: &Plan, scorer: &mut dyn Scorer) -> Result<Outcome> {
        let started = Instant::now();
        let codes: u64 = plan.pictures.iter().map(|task| codes_of(&task.recipe)).sum();
        let mut progress = Progress::new(self.session, codes * u64::from(plan.candidates));
        let table = self.table(plan);
        if !self.session.json {
            progress.print(&table.header());
        }
        let mut sheet = Vec::new();
        let mut rest = plan.pictures.as_slice();
        while let Some(first) = rest.first() {
            let alike = rest.iter().take_while(|task| task.recipe.size == first.recipe.size);
            let (batch, others) = rest.split_at(alike.take(self.args.batch).count());
            rest = others;
            let drawn = self.batch(batch, plan.candidates, scorer, &mut progress)?;
            for (task, picture, recipe) in drawn {
                self.write(&task.output, &picture, &recipe)?;
                self.tell(&table, task, &recipe, &progress);
                if plan.sheet.is_some() {
                    sheet.push(picture);
                }
            }
        }
        if let Some(path) = &plan.sheet {
            make_folder_of(path)?;
            save_png(path, &grid(&sheet, 0, GAP), &sheet_text(plan), self.args.force)?;
            match self.session.json {
                true => progress.print(&json!({ "type": "sheet", "output": path }).to_string()),
                false => {
                    progress.print(&format!("sheet of all: {}", shown(&path.to_string_lossy())))
                }
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let speed = progress.finish();
        if self.session.json {
            let done = plan.pictures.len();
            let line = json!({ "type": "summary", "done": done, "codes": codes, "seconds": seconds,
                               "codes_per_second": speed });
            print_line(&line.to_string());
        } else if !self.session.quiet {
            eprintln!("{} drawn in {seconds:.1} s ({speed:.0} codes/s)", plan.pictures.len());
        }
        Ok(Outcome::Done)
    }

    /// Draws a batch of pictures of one size, the best of `candidates` of each.
    fn batch<'t>(
        &self,
        tasks: &'t [Task],
        candidates: u32,
        scorer: &mut dyn Scorer,
        progress: &mut Progress,
    ) -> Result<Vec<(&'t Task, RgbImage, Recipe)>> {
        let mut best: Vec<Option<Drawn>> = tasks.iter().map(|_| None).collect();
        for number in 0..candidates {
            let codes = self.draw(tasks, number, progress)?;
            let drawn = (0..tasks.len()).map(|i| Ok(Drawn::new(number, codes.get(i)?)));
            let mut drawn = drawn.collect::<Result<Vec<_>>>()?;
            if candidates > 1 {
                self.score(tasks, &mut drawn, scorer)?;
            }
            for (best, drawn) in best.iter_mut().zip(drawn) {
                // Of equals the first stays.
                if best.as_ref().is_none_or(|best| drawn.score > best.score) {
                    *best = Some(drawn);
                }
            }
        }
        let mut done = Vec::with_capacity(tasks.len());
        for (task, best) in tasks.iter().zip(best) {
            let Drawn { number, codes, picture, score } = best.context("no candidate")?;
            let picture = match picture {
                Some(picture) => picture,
                None => self.picture(task, &codes)?,
            };
            let mut recipe = task.recipe.clone();
            // A picture that is drawn again is its candidate already.
            if candidates > 1
                && let Some(candidate) = &mut recipe.candidate
            {
                candidate.choose(number, score);
            }
            done.push((task, picture, recipe));
        }
        Ok(done)
    }

    /// Scores one candidate of each task.
    fn score(&self, tasks: &[Task], drawn: &mut [Drawn], scorer: &mut dyn Scorer) -> Result<()> {
        let mut candidates = Vec::with_capacity(drawn.len());
        for (task, drawn) in tasks.iter().zip(&*drawn) {
            let condition = &task.recipe.condition;
            candidates.push(Candidate {
                front: &condition.front,
                words: &condition.name,
                codes: &drawn.codes,
                picture: match scorer.sees_pictures() {
                    true => Some(self.picture(task, &drawn.codes)?),
                    false => None,
                },
            });
        }
        let scores = scorer.score(&candidates)?;
        let pictures: Vec<_> = candidates.into_iter().map(|candidate| candidate.picture).collect();
        for ((drawn, picture), score) in drawn.iter_mut().zip(pictures).zip(scores) {
            (drawn.picture, drawn.score) = (picture, score);
        }
        Ok(())
    }

    /// The picture of a task's codes, as it is written.
    fn picture(&self, task: &Task, codes: &CodeGrid) -> Result<RgbImage> {
        let size = (task.recipe.size[0], task.recipe.size[1]);
        self.paste(task, self.generator.decode(codes, size)?.remove(0))
    }

    /// The codes of candidate `number` of each task.
    fn draw(&self, tasks: &[Task], number: u32, progress: &mut Progress) -> Result<CodeGrid> {
        let first = &tasks[0].recipe;
        let streams = tasks.iter().map(|task| {
            let recipe = &task.recipe;
            let own = recipe.candidate.as_ref().map_or(0, |candidate| candidate.number);
            let sample = recipe.sample + u64::from(number.max(own)) * CANDIDATE_STRIDE;
            Stream { seed: recipe.seed, sample }
        });
        let kept = |task: &Task| task.recipe.kept.as_ref().map(|kept| kept.codes.clone());
        let request = DrawRequest {
            fronts: tasks.iter().map(|task| task.recipe.condition.front.clone()).collect(),
            streams: streams.collect(),
            grid: (first.grid[1], first.grid[0]),
            sampling: first.sampling.clone(),
            guidance: first.guidance.map(Into::into),
            forced: tasks.iter().filter_map(kept).collect(),
            wavefront: Wavefront::default(),
        };
        let before = progress.position();
        let previewed = if self.args.no_preview { &tasks[..0] } else { tasks };
        let mut previews = Previews::new(self.session, self.generator, previewed, self.args.force);
        let codes = self.generator.draw(&request, &mut |drawn| {
            progress.at(before + drawn.done as u64);
            previews.see(drawn);
        })?;
        progress.at(before + codes.dims().0 as u64 * codes_of(first));
        Ok(codes)
    }

    fn paste(&self, task: &Task, picture: RgbImage) -> Result<RgbImage> {
        let (Some(original), Some(kept)) = (&task.original, &task.recipe.kept) else {
            return Ok(picture);
        };
        let places: Vec<bool> = kept.codes.iter().map(Option::is_some).collect();
        let factor = self.generator.codec().factor();
        Ok(paste(&picture, original, &places, factor, kept.border.unwrap_or(0))?)
    }

    fn write(&self, path: &Path, picture: &RgbImage, recipe: &Recipe) -> Result<()> {
        make_folder_of(path)?;
        Ok(save_png(path, picture, &recipe.text_chunks()?, self.args.force)?)
    }

    fn table(&self, plan: &Plan) -> Table {
        let longest = |text: &dyn Fn(&Task) -> String| {
            plan.pictures.iter().map(|task| text(task).chars().count()).max().unwrap_or(0)
        };
        Table::new(vec![
            Column::text("condition", longest(&|task| shown(&task.recipe.condition.name))),
            Column::number("seed", longest(&|task| task.recipe.seed.to_string())),
            Column::number("sample", longest(&|task| task.recipe.sample.to_string())),
            Column::number("size", "9999x9999".len()),
            Column::text("written to", longest(&|task| shown(&task.output.to_string_lossy()))),
        ])
    }

    fn tell(&self, table: &Table, task: &Task, recipe: &Recipe, progress: &Progress) {
        if self.session.json {
            let line = json!({
                "type": "picture",
                "output": task.output,
                "condition": { "kind": recipe.condition.kind, "name": recipe.condition.name },
                "seed": recipe.seed,
                "sample": recipe.sample,
                "width": recipe.size[0],
                "height": recipe.size[1],
                "grid": recipe.grid,
                "candidate": recipe.candidate,
            });
            progress.print(&line.to_string());
            return;
        }
        progress.print(&table.line([
            shown(&recipe.condition.name),
            recipe.seed.to_string(),
            recipe.sample.to_string(),
            format!("{}x{}", recipe.size[0], recipe.size[1]),
            shown(&task.output.to_string_lossy()),
        ]));
    }
}

/// A candidate.
struct Drawn {
    number: u32,
    codes: CodeGrid,
    /// Where the scorer looked at it.
    picture: Option<RgbImage>,
    score: f64,
}

impl Drawn {
    fn new(number: u32, codes: CodeGrid) -> Self {
        Self { number, codes, picture: None, score: 0.0 }
    }
}

fn codes_of(recipe: &Recipe) -> u64 {
    (recipe.grid[0] * recipe.grid[1]) as u64
}

fn sheet_text(plan: &Plan) -> Vec<(String, String)> {
    let names: Vec<_> = plan
        .pictures
        .iter()
        .filter_map(|task| Some(task.output.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let people =
        format!("{} pictures, in reading order: {}", names.len(), shown(&names.join(", ")));
    let synth = json!({ "task": "sheet", "pictures": names, "version": env!("CARGO_PKG_VERSION") });
    vec![("parameters".to_owned(), people), ("synth".to_owned(), synth.to_string())]
}
