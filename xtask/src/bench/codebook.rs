//! The nearest-code search.

use candle_core::{D, Tensor};
use serde_json::json;

use super::case::{Case, Contestants, Results};
use super::device::device;
use super::pattern::pattern;

/// Vectors, codes, dimensions: a batch of latents or a picture's, against the
/// codebooks of the published models.
#[rustfmt::skip]
const SIZES: [[usize; 3]; 5] = [
    [4096, 16384, 256],
    [4096, 16384, 8],
    [256, 16384, 256],
    [1024, 1024, 8],
    [4096, 1024, 256],
];

/// What it takes to keep a GPU busy.
const LARGE_SIZES: [[usize; 3]; 2] = [[65536, 16384, 256], [65536, 16384, 8]];

/// One case per size.
pub fn cases() -> Vec<Case> {
    let large = if device().is_cuda() { &LARGE_SIZES[..] } else { &[] };
    SIZES.iter().chain(large).copied().map(case).collect()
}

fn case([vectors, codes, dim]: [usize; 3]) -> Case {
    let make = move || {
        let z = pattern("vectors", (vectors, dim), 1.0)?;
        let e = pattern("codebook", (codes, dim), 1.0)?;
        // A search that a user would write keeps what does not change.
        let norms = e.sqr()?.sum_keepdim(1)?.t()?;
        let (own_z, own_e) = (z.clone(), e.clone());
        Ok(Contestants {
            ours: Box::new(move || Ok(vec![codebook::nearest_codes(&own_z, &own_e)?])),
            candle: Some(Box::new(move || Ok(vec![composed(&z, &e, &norms)?]))),
        })
    };
    Case {
        name: format!("{vectors} vectors, {codes} codes, {dim} dimensions"),
        flops: Some(2.0 * (vectors * codes * dim) as f64),
        request: json!({ "vectors": vectors, "codes": codes, "dim": dim }),
        results: Results::Codes,
        make: Box::new(make),
    }
}

/// `argmin_k |e_k|^2 - 2 z e_k` by candle's ops.
fn composed(z: &Tensor, e: &Tensor, norms: &Tensor) -> candle_core::Result<Tensor> {
    (z.matmul(&e.t()?)? * -2.0)?.broadcast_add(norms)?.argmin(D::Minus1)
}
