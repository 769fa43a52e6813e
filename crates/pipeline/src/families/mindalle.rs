//! minDALL-E's second stage in terms of a [`Gpt`](cond_transformer::Gpt).
//!
//! It keeps a table of embeddings, of positions and of output rows for pictures
//! and one for text, and each position uses one of them. Joined they are one
//! vocabulary, codes first (text token t is token `codes + t`), and one row of
//! positions, text first: the same sums.
//!
//! Source: kakaobrain/minDALL-E, `dalle/models/stage2/transformer.py`.

use checkpoints::{Derived, TensorFile};

pub(super) fn to_ours(file: &TensorFile, prefix: &str) -> Result<Vec<Derived>, String> {
    let matrix = |name: &str| match file.dims(&format!("{prefix}{name}")) {
        Some(&[rows, columns]) => Ok((rows, columns)),
        Some(shape) => Err(format!("{name} has the shape {shape:?}")),
        None => Err(format!("it has no {name}: only minDALL-E's text-to-image model is known")),
    };
    let join = |name: &str, parts: [&str; 2], front: &[usize]| -> Result<Derived, String> {
        let [(a, width), (b, _)] = [matrix(parts[0])?, matrix(parts[1])?];
        // Both are at most the bytes of a file.
        let shape = [front, &[a + b, width]].concat();
        let sources = parts.iter().map(|part| format!("{prefix}{part}")).collect();
        Ok(Derived { name: format!("{prefix}{name}"), shape: Some(shape), sources })
    };
    Ok(vec![
        join("tok_emb.weight", ["tok_emb_img.weight", "tok_emb_txt.weight"], &[])?,
        join("pos_emb", ["pos_emb_txt.weight", "pos_emb_img.weight"], &[1])?,
        join("head.weight", ["head_img.weight", "head_txt.weight"], &[])?,
    ])
}
