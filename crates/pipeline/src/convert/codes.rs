//! Whether another codec can take the place of a transformer's first stage.

use std::path::Path;

use candle_core::Shape;
use vq_autoencoder::VqModel;

use super::{identity, rounded};
use crate::error::{Error, Result};
use crate::generator::{FoundGenerator, GeneratorSpec, check_codes};
use crate::model_spec::{Found, ModelSpec};
use crate::transformer_config::{StageRef, UNKNOWN};
use crate::weights;

/// `found` with the codec that `spec` names, where it names one, in the place of its own.
///
/// # Errors
/// When that makes other codes than the transformer's own, or its own is not there to be
/// compared with; where the model does not say which it was trained with, when the codec has
/// too few.
pub(super) fn substituted(
    mut found: FoundGenerator,
    spec: &GeneratorSpec,
) -> Result<FoundGenerator> {
    let Some(substitute) = &spec.first_stage else { return Ok(found) };
    if let Some(own) = found.first_stage_inside() {
        let substitute = substitute.find()?;
        check_same_codes(&substitute, own)?;
        found.first_stage.found = substitute;
        return Ok(found);
    }
    let codec = &found.first_stage.found;
    check_codes(&found.config, codec.config.quantizer.len(), &found.weights)?;
    let own = &found.config.first_stage;
    if own.codec_sha256 == UNKNOWN {
        return Ok(found);
    }
    let config = spec.config.as_deref().filter(|config| config.is_file());
    let folder = config.unwrap_or(&found.weights).parent().unwrap_or(Path::new(""));
    check_substitute(codec, &identity(codec, None)?, own, folder)?;
    Ok(found)
}

/// Checks that `codec`, whose identity is `sha256`, is the first stage `own` of the model in
/// `folder`, or makes the same codes.
///
/// # Errors
/// When it makes others; when it is another, and `own` is not there.
pub(crate) fn check_substitute(
    codec: &Found,
    sha256: &str,
    own: &StageRef,
    folder: &Path,
) -> Result<()> {
    if own.codec_sha256 == sha256 {
        return Ok(());
    }
    let untold = |why: String| {
        Error::model(
            codec.weights.file.path(),
            format!(
                "this is not the first stage that the transformer was trained with (it has sha256 \
                 {sha256}, and {} was), and without that one it cannot be told whether it makes the \
                 same codes: {why}",
                own.codec_sha256
            ),
        )
    };
    let place = own.place(folder);
    let found = ModelSpec::new(&place).find().map_err(|error| untold(error.to_string()))?;
    if identity(&found, None)? != own.codec_sha256 {
        return Err(untold(format!("{} is another, too", place.display())));
    }
    check_same_codes(codec, &found)
}

fn check_same_codes(codec: &Found, own: &Found) -> Result<()> {
    if same_codes(codec, own)? {
        return Ok(());
    }
    Err(Error::model(
        codec.weights.file.path(),
        "its encoder or codebook is not that of the model's own first stage, so its codes mean \
         something else to the transformer (`train vqgan` with init.keep_codes = true changes the \
         decoder alone)",
    ))
}

/// Whether two codecs give every picture the same codes, having the same encoder and codebook.
fn same_codes(a: &Found, b: &Found) -> Result<bool> {
    let (left, right) = (weights::expected(&a.config)?, weights::expected(&b.config)?);
    let of_codes = |(name, _): &(&String, &Shape)| VqModel::decides_codes(name);
    let kinds = [a, b].map(|codec| std::mem::discriminant(&codec.config.quantizer));
    if a.config.layout != b.config.layout
        || kinds[0] != kinds[1]
        || !left.iter().filter(of_codes).eq(right.iter().filter(of_codes))
    {
        return Ok(false);
    }
    for name in left.keys().filter(|name| VqModel::decides_codes(name)) {
        // As numbers: an average of a weight of -0 is 0.
        let [one, other] = [a, b].map(|codec| {
            rounded(codec, name, None)?.flatten_all()?.to_vec1::<f32>().map_err(Error::from)
        });
        if one? != other? {
            return Ok(false);
        }
    }
    Ok(true)
}
