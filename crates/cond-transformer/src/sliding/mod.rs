//! Grids of any size, by a window that slides over them.

mod raster;
mod reuse;
mod scene;
mod task;
mod wavefront;
mod window;

pub use raster::generate_raster;
pub use scene::{Scene, Scenes};
pub use task::{Progress, WindowConditions, WindowRequest};
pub use wavefront::{Wavefront, generate_wavefront};
pub use window::{Middle, Window};
