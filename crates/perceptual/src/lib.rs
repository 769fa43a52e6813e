//! How alike two images are, by pixel, by structure, and to a network's eye.
//!
//! | file | what |
//! |---|---|
//! | [`psnr`](mod@psnr) | peak signal-to-noise ratio |
//! | [`ssim`](mod@ssim) | structural similarity (Wang et al. 2004) |
//! | [`vgg`] | the VGG-16 features behind LPIPS |
//! | [`lpips`] | learned perceptual similarity (Zhang et al. 2018), differentiable |
//! | [`substitute`] | what to learn from where LPIPS has no weights |
//!
//! PSNR and SSIM measure 8-bit pictures ([`Rgb8`]) and tensors, on the host, in
//! f64. LPIPS is a training loss as well as a metric: a candle graph, or on a CPU one op of it.

pub mod lpips;
pub mod psnr;
pub mod rgb8;
pub mod ssim;
pub mod substitute;
pub mod vgg;

mod distance;
mod planes;

pub use lpips::{Lpips, LpipsConfig};
pub use psnr::{psnr, psnr_rgb8};
pub use rgb8::Rgb8;
pub use ssim::{ssim, ssim_rgb8};
pub use substitute::Substitute;
pub use vgg::Vgg16;
