//! Where the window lies for a position.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The size of the window: the grid that the model was trained on.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Which of its cells is the middle.
    #[serde(default)]
    pub middle: Middle,
}

/// Which cell of a side is its middle: where a position lies in the window, away from the
/// edges of the grid.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Middle {
    /// 8 of 16, counted from 0 (`make_samples.py`).
    #[default]
    After,
    /// 7 of 16 (`make_scene_samples.py`).
    Before,
}

impl Middle {
    fn of(self, window: usize) -> usize {
        match self {
            Self::After => window / 2,
            Self::Before => window.saturating_sub(1) / 2,
        }
    }
}

impl Default for Window {
    /// 16x16, as in the reference.
    fn default() -> Self {
        Self { height: 16, width: 16, middle: Middle::default() }
    }
}

impl Window {
    /// Refuses a grid that is smaller than the window, or an empty window.
    pub(crate) fn validate(&self, (height, width): (usize, usize)) -> Result<()> {
        if self.height == 0 || self.width == 0 || height < self.height || width < self.width {
            return Err(Error::Request(format!(
                "a grid of {height}x{width} codes under a window of {}x{}; make it as large \
                 as the window, or generate without one",
                self.height, self.width
            )));
        }
        Ok(())
    }

    /// The row of the window's top edge for a code in `row` of `height`.
    pub fn top(&self, row: usize, height: usize) -> usize {
        row - local(row, height, self.height, self.middle)
    }

    /// Whether no later position of a grid of `size` has the window of `(row, column)`.
    pub(super) fn leaves(&self, (row, column): (usize, usize), size: (usize, usize)) -> bool {
        let moves_down = row + 1 == size.0 || self.top(row + 1, size.0) != self.top(row, size.0);
        let moves_right =
            column + 1 == size.1 || self.left(column + 1, size.1) != self.left(column, size.1);
        moves_down && moves_right
    }

    /// The column of the window's left edge for a code in `column` of `width`.
    pub fn left(&self, column: usize, width: usize) -> usize {
        column - local(column, width, self.width, self.middle)
    }
}

/// The place inside a window of `window` cells of position `at` among `len`: the
/// middle, but closer to an edge where the grid ends (`scripts/make_samples.py`).
fn local(at: usize, len: usize, window: usize, middle: Middle) -> usize {
    let middle = middle.of(window);
    if at <= middle {
        at
    } else if len - at < window - middle {
        window - (len - at)
    } else {
        middle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_stay_inside_and_hold_their_position() {
        for (window, len) in
            [(16, 16), (16, 17), (16, 24), (16, 40), (5, 5), (5, 9), (1, 3), (2, 5)]
        {
            for middle in [Middle::After, Middle::Before] {
                let size = Window { height: window, width: window, middle };
                stays_inside(size, len);
            }
        }
    }

    fn stays_inside(size: Window, len: usize) {
        let window = size.width;
        let mut last = 0;
        for at in 0..len {
            let left = size.left(at, len);
            assert!(
                left <= at && at < left + window && left + window <= len,
                "{window} {len} {at}"
            );
            assert!(left >= last && left <= last + 1, "the window moves one step at a time");
            last = left;
        }
    }

    #[test]
    fn is_where_the_reference_has_it() {
        let window = Window::default();
        let lefts: Vec<_> = (0..20).map(|column| window.left(column, 20)).collect();
        let mut expected = vec![0; 9];
        expected.extend([1, 2, 3]);
        expected.extend([4; 8]);
        assert_eq!(lefts, expected);
    }
}
