//! The whole first stage: encoder, quantizer, decoder.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use codebook::{AnyQuantizer, CodeGrid, Quantized, Quantizer};
use layers::{Conv2d, Conv2dConfig, Tape, conv2d};

use crate::codec::ImageCodec;
use crate::config::VqConfig;
use crate::decoder::Decoder;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::pass::{Named, Pass};
use crate::picture_context::PictureContext;

/// A VQGAN without its losses.
///
/// Keys: `encoder.*`, `quant_conv.*`, `quantize.*`, `post_quant_conv.*`,
/// `decoder.*`. Checkpoints may also hold `loss.*` (LPIPS and discriminator),
/// `colorize` (a random projection of labels to RGB, for pictures only),
/// `quantize.codebook_used` (LlamaGen's usage ring) and `quantize.used` (the
/// reference's remap); this model needs none of them.
///
/// Source: `VQModel`, `VQSegmentationModel`, `GumbelVQ` of taming's
/// `models/vqgan.py`; `VQModel` of LlamaGen's `vq_model.py`.
#[derive(Debug)]
pub struct VqModel {
    config: VqConfig,
    encoder: Encoder,
    quant_conv: Named<Conv2d>,
    quantizer: AnyQuantizer,
    post_quant_conv: Named<Conv2d>,
    decoder: Decoder,
}

impl VqModel {
    /// The model of `config` with the weights under `vb`.
    ///
    /// # Errors
    /// If `config` is invalid, or a weight is missing or mis-shaped.
    pub fn new(config: &VqConfig, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let (z, dim) = (config.z_channels, config.quantizer.dim());
        let plain = Conv2dConfig::default();
        Ok(Self {
            encoder: Encoder::new(config, vb.pp("encoder"))?,
            quant_conv: Named::new(vb.pp("quant_conv"), |vb| conv2d(z, dim, 1, plain, vb))?,
            quantizer: config.quantizer.build(vb.pp("quantize"))?,
            post_quant_conv: Named::new(vb.pp("post_quant_conv"), |vb| {
                conv2d(dim, z, 1, plain, vb)
            })?,
            decoder: Decoder::new(config, vb.pp("decoder"))?,
            config: config.clone(),
        })
    }

    /// Whether the weight `name` has a say in which codes a picture gets: encoder, codebook
    /// and what is between them. The others only say what codes look like.
    pub fn decides_codes(name: &str) -> bool {
        matches!(name.split('.').next(), Some("encoder" | "quant_conv" | "quantize"))
    }

    /// The architecture.
    pub fn config(&self) -> &VqConfig {
        &self.config
    }

    /// The quantizer.
    pub fn quantizer(&self) -> &AnyQuantizer {
        &self.quantizer
    }

    /// The dtype of pictures and feature maps: that of the weights, but on a CPU those of
    /// convolutions may be of half precision beside f32.
    pub fn dtype(&self) -> DType {
        self.decoder.dtype()
    }

    /// The encoder's output `[B, z_channels, h, w]` for pictures
    /// `[B, in_channels, H, W]` in `[-1, 1]`; h and w are H and W halved and
    /// rounded down once per level but one.
    ///
    /// # Errors
    /// If the channels are not `in_channels` or a side is shorter than the
    /// factor.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.features_in(x, &mut Pass::plain())
    }

    /// What the quantizer gets, `[B, dim, h, w]`: features after `quant_conv`.
    ///
    /// # Errors
    /// As [`features`](Self::features).
    pub fn pre_quant(&self, x: &Tensor) -> Result<Tensor> {
        self.pre_quant_in(x, &mut Pass::plain())
    }

    /// What the decoder gets, `[B, z_channels, h, w]`, for code vectors
    /// `[B, dim, h, w]`.
    ///
    /// # Errors
    /// If the channels are not the quantizer's `dim`.
    pub fn post_quant(&self, embeddings: &Tensor) -> Result<Tensor> {
        self.post_quant_in(embeddings, &mut Pass::plain())
    }

    /// The pictures `[B, out_channels, h * f, w * f]` of code vectors
    /// `[B, dim, h, w]`, not clamped.
    ///
    /// # Errors
    /// If the channels are not the quantizer's `dim`.
    pub fn decode_embeddings(&self, embeddings: &Tensor) -> Result<Tensor> {
        self.decode_in(embeddings, &mut Pass::plain())
    }

    /// Reconstruction `[B, out_channels, H, W]`, not clamped, and what the
    /// quantizer made on the way, both with gradients.
    ///
    /// A Gumbel quantizer samples in training: give it noise and temperature
    /// through [`forward_train_with`](Self::forward_train_with).
    ///
    /// # Errors
    /// As [`features`](Self::features), and if `config.dropout` is not 0.
    pub fn forward_train(&self, x: &Tensor) -> Result<(Tensor, Quantized)> {
        self.forward_train_with(x, |quantizer, z| quantizer.quantize(z))
    }

    /// [`forward_train`](Self::forward_train) with the quantization step given:
    /// `quantize(quantizer, z)` for z `[B, dim, h, w]`.
    ///
    /// # Errors
    /// As [`forward_train`](Self::forward_train), and what `quantize` returns.
    pub fn forward_train_with(
        &self,
        x: &Tensor,
        quantize: impl FnOnce(&AnyQuantizer, &Tensor) -> codebook::Result<Quantized>,
    ) -> Result<(Tensor, Quantized)> {
        self.check_trains()?;
        let quantized = quantize(&self.quantizer, &self.pre_quant(x)?)?;
        let reconstruction = self.decode_embeddings(&quantized.embeddings)?;
        Ok((reconstruction, quantized))
    }

    /// A reconstruction without sampling during which `see(key prefix, output)`
    /// is called for every convolution, block, attention and norm, in order:
    /// for tests, and for finding where two implementations part.
    ///
    /// # Errors
    /// As [`features`](Self::features).
    pub fn observe(
        &self,
        x: &Tensor,
        see: &mut dyn FnMut(&str, &Tensor),
    ) -> Result<(Tensor, Quantized)> {
        let mut pass = Pass::observed(see);
        let quantized = self.quantizer.quantize(&self.pre_quant_in(x, &mut pass)?)?;
        let reconstruction = self.decode_in(&quantized.embeddings, &mut pass)?;
        Ok((reconstruction, quantized))
    }

    /// [`decode_embeddings`](Self::decode_embeddings) without the last
    /// convolution: `[B, ch * ch_mult[0], h * f, w * f]`. Training compares
    /// gradients at that layer alone (eq. 7) and needs its input for that.
    ///
    /// # Errors
    /// As [`decode_embeddings`](Self::decode_embeddings).
    pub fn decode_hidden(&self, embeddings: &Tensor) -> Result<Tensor> {
        let pass = &mut Pass::plain();
        let z = self.post_quant_in(embeddings, pass)?;
        Ok(self.decoder.hidden(&z, pass)?)
    }

    /// The decoder's last convolution: pictures of what
    /// [`decode_hidden`](Self::decode_hidden) gives.
    ///
    /// # Errors
    /// If the channels are not `ch * ch_mult[0]`.
    pub fn last_convolution(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.decoder.last(hidden, &mut Pass::plain())?)
    }

    /// [`pre_quant`](Self::pre_quant) for training, without candle's graph: the way
    /// back is put on `tape`, which should be one made from data.
    ///
    /// # Errors
    /// As [`forward_train`](Self::forward_train).
    pub fn pre_quant_taped(&self, x: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        self.check_trains()?;
        self.pre_quant_in(x, &mut Pass::taped(tape))
    }

    /// [`decode_hidden`](Self::decode_hidden) for training, as
    /// [`pre_quant_taped`](Self::pre_quant_taped).
    ///
    /// # Errors
    /// As [`forward_train`](Self::forward_train).
    pub fn decode_hidden_taped(&self, embeddings: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        self.check_trains()?;
        let pass = &mut Pass::taped(tape);
        let z = self.post_quant_in(embeddings, pass)?;
        Ok(self.decoder.hidden(&z, pass)?)
    }

    /// [`last_convolution`](Self::last_convolution) for training, as
    /// [`pre_quant_taped`](Self::pre_quant_taped).
    ///
    /// # Errors
    /// As [`last_convolution`](Self::last_convolution).
    pub fn last_convolution_taped(&self, hidden: &Tensor, tape: &mut Tape) -> Result<Tensor> {
        Ok(self.decoder.last(hidden, &mut Pass::taped(tape))?)
    }

    /// The gradient to the weight of the last convolution, for its input `hidden` and
    /// the gradient `upstream` to the pictures it makes: what eq. 7 compares.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn last_layer_gradient(&self, hidden: &Tensor, upstream: &Tensor) -> Result<Tensor> {
        Ok(self.decoder.last_layer_gradient(hidden, &upstream.to_dtype(hidden.dtype())?)?)
    }

    fn check_trains(&self) -> Result<()> {
        if self.config.dropout == 0.0 {
            return Ok(());
        }
        let rule = "training with dropout is not supported: set it to 0, as every published \
                    model does";
        Err(Error::config("dropout", self.config.dropout, rule))
    }

    /// The weight of the decoder's last convolution,
    /// `[out_channels, ch * ch_mult[0], 3, 3]`: where the adversarial weight of
    /// eq. 7 compares gradients.
    pub fn last_layer(&self) -> &Tensor {
        self.decoder.last_layer()
    }

    fn features_in(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let factor = self.config.factor();
        match *x.dims() {
            [_, c, h, w] if c == self.config.in_channels && h >= factor && w >= factor => {}
            _ => {
                return Err(Error::Shape {
                    op: "encode",
                    got: format!("{:?}", x.dims()),
                    expected: format!(
                        "[B, {}, H, W] with H and W at least {factor} (encode_any_size pads \
                         smaller pictures)",
                        self.config.in_channels
                    ),
                });
            }
        }
        Ok(self.encoder.forward(&x.to_dtype(self.dtype())?, pass)?)
    }

    fn pre_quant_in(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        Ok(self.quant_conv.forward(&self.features_in(x, pass)?, pass)?)
    }

    /// Code vectors may be of another dtype than the networks: codebooks are f32 in
    /// training.
    fn post_quant_in(&self, embeddings: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        Ok(self.post_quant_conv.forward(&embeddings.to_dtype(self.dtype())?, pass)?)
    }

    fn decode_in(&self, embeddings: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let z = self.post_quant_in(embeddings, pass)?;
        Ok(self.decoder.forward(&z, pass)?)
    }
}

impl ImageCodec for VqModel {
    /// For a Gumbel model the most likely code, without noise; the reference
    /// draws one even in evaluation.
    fn encode(&self, images: &Tensor) -> Result<CodeGrid> {
        Ok(self.quantizer.codes(&self.pre_quant(images)?)?)
    }

    fn decode(&self, codes: &CodeGrid) -> Result<Tensor> {
        self.decode_embeddings(&self.quantizer.embed(codes)?)
    }

    fn encode_tile(&self, tile: &Tensor, picture: &mut PictureContext) -> Result<CodeGrid> {
        Ok(self.quantizer.codes(&self.pre_quant_in(tile, &mut Pass::tile(picture))?)?)
    }

    fn decode_tile(&self, codes: &CodeGrid, picture: &mut PictureContext) -> Result<Tensor> {
        self.decode_in(&self.quantizer.embed(codes)?, &mut Pass::tile(picture))
    }

    fn factor(&self) -> usize {
        self.config.factor()
    }

    fn codebook_len(&self) -> usize {
        self.quantizer.len()
    }
}
