//! The seam above the first stage.

use candle_core::Tensor;
use codebook::CodeGrid;

use crate::error::Result;
use crate::picture_context::PictureContext;

/// Pictures to codes and back: what tiling, pipelines and transformers need of
/// a first stage (or of a condition model: segmentation and depth).
pub trait ImageCodec: Send + Sync {
    /// The codes `[B, h, w]` of `images` `[B, C, H, W]` in `[-1, 1]`.
    ///
    /// Sides that are no multiple of [`factor`](Self::factor) are halved and
    /// rounded down, level by level, as the reference does: right and bottom
    /// are cut off. [`encode_any_size`](crate::encode_any_size) keeps them.
    ///
    /// # Errors
    /// If the shape does not fit the model, a side is shorter than the factor,
    /// or a value is NaN.
    fn encode(&self, images: &Tensor) -> Result<CodeGrid>;

    /// The pictures `[B, C, h * factor, w * factor]` of `codes`, not clamped.
    ///
    /// # Errors
    /// If a code is not below [`codebook_len`](Self::codebook_len).
    fn decode(&self, codes: &CodeGrid) -> Result<Tensor>;

    /// [`encode`](Self::encode) of a tile `[1, C, H, W]` of a larger picture,
    /// which may go by what the context knows of the whole `picture`. The first
    /// call for a picture is for a sample of it, of a tile's size; `picture`
    /// records what the codec shows it, and the codes are not used.
    ///
    /// Provided: tiles are encoded on their own.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn encode_tile(&self, tile: &Tensor, picture: &mut PictureContext) -> Result<CodeGrid> {
        let _ = picture;
        self.encode(tile)
    }

    /// [`decode`](Self::decode) of a tile `[1, h, w]` of the codes of a larger
    /// picture, as [`encode_tile`](Self::encode_tile) is of pixels.
    ///
    /// Provided: tiles are decoded on their own.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    fn decode_tile(&self, codes: &CodeGrid, picture: &mut PictureContext) -> Result<Tensor> {
        let _ = picture;
        self.decode(codes)
    }

    /// Sides of a picture over sides of its code grid.
    fn factor(&self) -> usize;

    /// How many codes there are.
    fn codebook_len(&self) -> usize;
}
