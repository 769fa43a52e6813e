//! Codes from conditions: at the training size with a cache, at any larger size by
//! a window that slides.

use codebook::CodeGrid;
use cond_transformer::{
    Guidance, Middle, Progress, Request, Sampling, Stream, Wavefront, Window, WindowConditions,
    WindowRequest, generate_grid, generate_wavefront,
};

use super::{Front, Generator};
use crate::error::Result;
use crate::transformer_config::ConditionConfig;

/// What to draw: one grid for each of `fronts`.
#[derive(Clone, Debug)]
pub struct DrawRequest {
    /// The condition of each.
    pub fronts: Vec<Front>,
    /// The random numbers of each.
    pub streams: Vec<Stream>,
    /// Rows and columns of the grids; see [`Generator::grid_of`].
    pub grid: (usize, usize),
    /// How a code is drawn.
    pub sampling: Sampling,
    /// How closely to the condition.
    pub guidance: Option<GuidanceOptions>,
    /// Codes that are given, row by row, for each; empty: none.
    pub forced: Vec<Vec<Option<u32>>>,
    /// How much is computed at a time by a window that slides.
    pub wavefront: Wavefront,
}

/// Classifier-free guidance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuidanceOptions {
    /// 1 is none.
    pub scale: f64,
    /// Guidance ends after this many codes.
    pub interval: Option<usize>,
}

impl DrawRequest {
    /// Whether there is guidance that changes anything.
    fn guided(&self) -> Option<GuidanceOptions> {
        self.guidance.filter(|guidance| guidance.scale != 1.0)
    }
}

impl Generator {
    /// Draws codes `[B, H, W]`. `progress` is told what is there; codes and
    /// complete rows only of grids that a window slides over. What is drawn depends on the seed, the sample and its condition
    /// alone.
    ///
    /// # Errors
    /// When parts do not fit together or the model, or a logit is NaN.
    pub fn draw(
        &self,
        request: &DrawRequest,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<CodeGrid> {
        if (request.grid.0, request.grid.1) == (self.config.grid[0], self.config.grid[1]) {
            self.draw_whole(request, progress)
        } else {
            self.draw_sliding(request, progress)
        }
    }

    /// Codes that must not be drawn: those that the codec does not have.
    fn forbidden(&self) -> Vec<u32> {
        (self.config.codes as u32..self.config.architecture.vocabulary() as u32).collect()
    }

    fn absent_of(&self, fronts: &[Front]) -> Result<Vec<Front>> {
        fronts.iter().map(|front| self.absent(front)).collect()
    }

    fn draw_whole(
        &self,
        request: &DrawRequest,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<CodeGrid> {
        let guidance = match request.guided() {
            None => None,
            Some(GuidanceOptions { scale, interval }) => {
                let absent = self.conditions(&self.absent_of(&request.fronts)?)?;
                Some(Guidance { scale, interval, absent })
            }
        };
        let samples = request.fronts.len();
        let whole = Request {
            conditions: self.conditions(&request.fronts)?,
            streams: request.streams.clone(),
            sampling: request.sampling.clone(),
            guidance,
            forbidden: self.forbidden(),
            forced: request.forced.clone(),
        };
        Ok(generate_grid(
            self.network.model(),
            &whole,
            request.grid,
            &self.permuter,
            &mut |position| progress(Progress { done: position * samples, codes: &[], rows: &[] }),
        )?)
    }

    fn draw_sliding(
        &self,
        request: &DrawRequest,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<CodeGrid> {
        let conditions = |fronts: &[Front]| self.window_conditions(fronts, request.grid);
        let guidance: Option<Guidance<WindowConditions>> = match request.guided() {
            None => None,
            Some(GuidanceOptions { scale, interval }) => {
                let absent = conditions(&self.absent_of(&request.fronts)?)?;
                Some(Guidance { scale, interval, absent })
            }
        };
        let sliding = WindowRequest {
            conditions: conditions(&request.fronts)?,
            streams: request.streams.clone(),
            size: request.grid,
            window: self.window(),
            sampling: request.sampling.clone(),
            guidance,
            forbidden: self.forbidden(),
            forced: request.forced.clone(),
        };
        Ok(generate_wavefront(self.network.model(), &sliding, request.wavefront, progress)?)
    }

    /// The window: the grid that the model was trained on. Its middle is where the
    /// reference has it for this kind of condition.
    pub(super) fn window(&self) -> Window {
        let middle = match self.config.condition {
            ConditionConfig::Layout(_) => Middle::Before,
            _ => Middle::After,
        };
        Window { height: self.config.grid[0], width: self.config.grid[1], middle }
    }
}
