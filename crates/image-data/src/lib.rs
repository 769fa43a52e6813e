//! Pictures in, tensors out: decoding under limits, the reference's crops and
//! resizes, datasets whose order and augmentation derive from a seed.
//!
//! * [`load_rgb`] reads any common picture file as 8-bit RGB, upright, on white.
//! * [`resize`] repeats the arithmetic of the reference's preprocessing (OpenCV
//!   and Pillow), so that a model sees the pixels it was trained on.
//! * [`Catalog`] finds out what a folder, list or tar archive holds: pictures, classes,
//!   captions, label and depth maps, and what is held out; [`PictureDataset`] reads it.
//! * [`Dataset`] is the seam between pictures and training: everything random
//!   about example *i* of epoch *e* derives from (seed, e, i), so any worker, in
//!   any order, after any restart, gives the same bytes. [`Batches`] relies on
//!   nothing else.
//! * [`save_png`] writes a picture whole or not at all.
//!
//! This crate knows nothing of networks.

mod batches;
mod catalog;
mod condition;
mod dataset;
mod decode;
mod error;
mod grid;
mod label_colors;
mod limits;
mod list;
mod location;
mod picture_dataset;
mod png_file;
mod random;
pub mod resize;
mod tensor;
mod view;

pub use batches::{Batch, BatchPlan, Batches, Position};
pub use catalog::{Catalog, CatalogConfig, Entry, LabelClass, Split};
pub use condition::{
    DepthImage, depth_from_rgba, likeliest_labels, normalize_depth, one_hot, shift_labels,
};
pub use dataset::{Dataset, Example};
pub use decode::{decode_depth, decode_labels, decode_rgb, load_rgb};
pub use error::{Error, Result};
pub use grid::grid;
pub use label_colors::LabelColors;
pub use limits::Limits;
pub use list::{has_image_extension, list_images};
pub use location::Location;
pub use picture_dataset::PictureDataset;
pub use png_file::{png_text, save_png};
pub use random::{epoch_order, example_rng};
pub use tensor::{Quantization, from_tensor, from_tensor_with, stack, to_tensor};
pub use view::{Crop, ResizeRule, ViewConfig};
