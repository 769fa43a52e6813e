//! What a picture says about how it was made: PNG text chunks.

use pipeline::Codec;
use serde_json::json;

use crate::table::shown;

/// The chunks of a picture of `size` = (width, height) that `codec` decoded
/// from the codes of the picture `source`: `parameters` for people, `synth`
/// with one JSON object. `decode` and `reconstruct` write the same, because
/// they make the same picture.
pub fn text_chunks(codec: &Codec, source: &str, size: (u32, u32)) -> Vec<(String, String)> {
    // Names may come from strangers, and PNG text knows no NUL.
    let source = shown(source);
    let (w, h) = codec.grid_size(size);
    let about = codec.describe();
    let people = format!(
        "{source}, decoded from {w}x{h} codes of {} (factor {}), codec sha256 {}, synth-cli {}",
        about.codes,
        about.factor,
        about.sha256,
        env!("CARGO_PKG_VERSION"),
    );
    let recipe = json!({
        "task": "reconstruct",
        "source": source,
        "codec_sha256": about.sha256,
        "grid": [w, h],
        "version": env!("CARGO_PKG_VERSION"),
    });
    vec![("parameters".to_owned(), people), ("synth".to_owned(), recipe.to_string())]
}
