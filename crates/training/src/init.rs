//! Initial values of parameters, as a function of (seed, name) alone.
//!
//! candle's CPU generator cannot be seeded, and a generator shared by all
//! parameters would make every value depend on the order of construction.
//! Here each parameter has its own stream of one ChaCha8 generator.

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::Init;
use candle_nn::init::NormalOrUniform;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The initial value of the parameter `name` under `seed`, following `hint`.
///
/// The value depends on nothing but the arguments: not on which parameters
/// were made before it, nor on threads or devices (it is drawn on the host).
///
/// # Errors
/// If the hint asks for noise in a dtype that is not a float.
pub fn initial_value(
    seed: u64,
    name: &str,
    shape: &Shape,
    hint: Init,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let count = shape.elem_count();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream_of(name));
    let values: Vec<f32> = match hint {
        Init::Const(value) => {
            return Tensor::full(value as f32, shape.clone(), device)?.to_dtype(dtype);
        }
        Init::Uniform { lo, up } => uniform(&mut rng, count, lo, up),
        Init::Randn { mean, stdev } => normal(&mut rng, count, mean, stdev),
        Init::Kaiming { dist, fan, non_linearity } => {
            let deviation = non_linearity.gain() / (fan.for_shape(shape) as f64).sqrt();
            match dist {
                NormalOrUniform::Uniform => {
                    let bound = 3f64.sqrt() * deviation;
                    uniform(&mut rng, count, -bound, bound)
                }
                NormalOrUniform::Normal => normal(&mut rng, count, 0.0, deviation),
            }
        }
    };
    if !dtype.is_float() {
        bail!("parameter {name}: noise cannot initialise a tensor of {dtype:?}");
    }
    Tensor::from_vec(values, shape.clone(), device)?.to_dtype(dtype)
}

/// FNV-1a, 64 bits: which stream of the generator a name owns.
pub(crate) fn stream_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A number in `[0, 1)` with 53 random bits.
fn unit(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

fn uniform(rng: &mut ChaCha8Rng, count: usize, lo: f64, up: f64) -> Vec<f32> {
    (0..count).map(|_| (lo + (up - lo) * unit(rng)) as f32).collect()
}

/// Box and Muller's transform, both of its values used.
fn normal(rng: &mut ChaCha8Rng, count: usize, mean: f64, deviation: f64) -> Vec<f32> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * unit(rng)).sin_cos();
        values.push((mean + deviation * radius * cos) as f32);
        values.push((mean + deviation * radius * sin) as f32);
    }
    values.truncate(count);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str, hint: Init) -> Result<Vec<f32>> {
        let shape = Shape::from(20_000);
        initial_value(7, name, &shape, hint, DType::F32, &Device::Cpu)?.to_vec1()
    }

    #[test]
    fn a_name_and_a_seed_give_one_value() -> anyhow::Result<()> {
        let hint = Init::Randn { mean: 1.0, stdev: 2.0 };
        let a = values("a", hint)?;
        assert_eq!(a, values("a", hint)?);
        assert_ne!(a, values("b", hint)?);
        Ok(())
    }

    #[test]
    fn noise_has_the_moments_asked_for() -> anyhow::Result<()> {
        let moments = |v: &[f32]| {
            let n = v.len() as f64;
            let mean = v.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let var = v.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
            (mean, var.sqrt())
        };
        let (mean, deviation) = moments(&values("n", Init::Randn { mean: 1.0, stdev: 2.0 })?);
        assert!((mean - 1.0).abs() < 0.05 && (deviation - 2.0).abs() < 0.05);
        let u = values("u", Init::Uniform { lo: -3.0, up: 1.0 })?;
        let (mean, deviation) = moments(&u);
        assert!((mean + 1.0).abs() < 0.05 && (deviation - 4.0 / 12f64.sqrt()).abs() < 0.05);
        assert!(u.iter().all(|x| (-3.0..=1.0).contains(x)));
        Ok(())
    }
}
