//! Attention of many heads: kernels without the matrix of weights, and what is composed
//! where they do not take it.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use layers::Factors;
use layers::sequence::{Dropout, Heads};

use crate::harness::{Found, VIEWS, View, compare, noise, on_gpu, tolerance};
use crate::sequence::{both, named};

const OFF: Dropout = Dropout { share: 0.0, seed: 1, stream: 2 };
/// Nothing is left out, but as there might be, the weights are composed.
const COMPOSED: Dropout = Dropout { share: 1e-9, ..OFF };

#[test]
fn attention_of_many_heads() -> Result<()> {
    on_gpu("attention_of_many_heads", |device| {
        let on = Dropout { share: 0.2, ..OFF };
        let all = [
            (1, 1, 4, heads(1, 1, 0), OFF),
            (3, 17, 5, heads(4, 2, 6), OFF),
            (2, 70, 8, heads(4, 4, 0), on),
            (2, 130, 64, heads(2, 1, 3), OFF),
        ];
        for (batch, len, dim, heads, dropout) in all {
            both(&format!("{heads:?}"), device, |device| {
                let to = |t: Tensor| t.to_device(device);
                let q = to((noise(&[batch, len, heads.heads * dim], 1)? * 2.0)?)?;
                let [k, v] = [2, 3].map(|seed| -> Result<Tensor> {
                    Ok(to(noise(&[batch, len, heads.shared * dim], seed)?)?)
                });
                let (k, v) = (k?, v?);
                let dy = to(noise(q.dims(), 4)?)?;
                let leaves = [&q, &k, &v].map(Var::from_tensor);
                let [a, b, c] = leaves;
                let (a, b, c) = (a?, b?, c?);
                let y = heads.formula(&a, &b, &c, &dropout)?;
                let store = (&y * &dy)?.sum_all()?.backward()?;
                let get = |v: &Var| store.get(v).map(Tensor::detach).context("gradient");
                let mut found = vec![y.detach(), get(&a)?, get(&b)?, get(&c)?];
                if Heads::fast(&q) {
                    found.push(heads.attend(&q, &k, &v, &dropout)?);
                    let g = heads.gradients(&q, &k, &v, &dy, &dropout)?;
                    found.extend([g.queries, g.keys, g.values]);
                } else {
                    println!("attention of many heads: formula only");
                    let again = found.clone();
                    found.extend(again);
                }
                ensure!(found.len() == 8);
                Ok(named(found))
            })?;
        }
        Ok(())
    })
}

/// A batch of what attention takes.
#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    len: usize,
    dim: usize,
    heads: Heads,
    dtype: DType,
    view: View,
}

impl Case {
    /// Queries, keys, values and the gradient of what is read: numbers of `dtype`, as
    /// `as_dtype`.
    fn inputs(&self, device: &Device, as_dtype: DType) -> Result<[Tensor; 4]> {
        let heads = self.heads;
        let input = |seed, heads: usize, factor: f64| -> Result<Tensor> {
            let whole = self.view.whole(&[self.batch, self.len, heads * self.dim]);
            let x = (noise(&whole, seed)? * factor)?.to_dtype(self.dtype)?;
            self.view.of(&x.to_dtype(as_dtype)?.to_device(device)?)
        };
        Ok([
            input(1, heads.heads, 2.0)?,
            input(2, heads.shared, 1.0)?,
            input(3, heads.shared, 1.0)?,
            input(4, heads.heads, 1.0)?,
        ])
    }

    /// The output and the gradients by [`Heads::attend`] and [`Heads::gradients`].
    fn run(&self, device: &Device, dropout: &Dropout) -> Result<Found> {
        let [q, k, v, dy] = &self.inputs(device, self.dtype)?;
        let y = self.heads.attend(q, k, v, dropout)?;
        let g = self.heads.gradients(q, k, v, dy, dropout)?;
        let found = vec![y, g.queries, g.keys, g.values];
        ensure!(found.iter().all(|t| t.dtype() == self.dtype));
        Ok(named(found))
    }

    /// The same by the formula, in f32.
    fn expected(&self) -> Result<Found> {
        let [q, k, v, dy] = self.inputs(&Device::Cpu, DType::F32)?;
        let [a, b, c] = [Var::from_tensor(&q)?, Var::from_tensor(&k)?, Var::from_tensor(&v)?];
        let y = self.heads.formula(&a, &b, &c, &OFF)?;
        let store = (&y * &dy)?.sum_all()?.backward()?;
        let get = |v: &Var| store.get(v).map(Tensor::detach).context("gradient");
        Ok(named(vec![y.detach(), get(&a)?, get(&b)?, get(&c)?]))
    }

    /// Compares the kernels with the formula, with themselves and, in f32, with what is
    /// composed.
    fn check(&self, device: &Device) -> Result<()> {
        let case = format!("{self:?}");
        let found = self.run(device, &OFF)?;
        compare(&case, &found, &self.expected()?, tolerance(self.dtype))?;
        for ((name, first), (_, second)) in found.iter().zip(&self.run(device, &OFF)?) {
            ensure!(bits(first)? == bits(second)?, "{case}: {name} is not the same again");
        }
        if self.dtype == DType::F32 {
            let composed = self.run(device, &COMPOSED)?;
            compare(&format!("composed {case}"), &found, &composed, tolerance(self.dtype))?;
        }
        Ok(())
    }
}

fn bits(x: &Tensor) -> Result<Vec<u32>> {
    let x = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(x.into_iter().map(f32::to_bits).collect())
}

fn heads(heads: usize, shared: usize, unmasked: usize) -> Heads {
    Heads { heads, shared, unmasked, factors: Factors::F32 }
}

#[test]
fn attention_at_edges_of_tiles() -> Result<()> {
    on_gpu("attention_at_edges_of_tiles", |device| {
        let groups = [(1, 1), (4, 2), (3, 1), (2, 2)];
        for (i, len) in [1, 63, 64, 65, 130, 257].into_iter().enumerate() {
            for (j, dim) in [1, 5, 32, 48, 64, 100, 128].into_iter().enumerate() {
                for (k, unmasked) in [0, 3, 70, 300].into_iter().enumerate() {
                    let n = i + j + k;
                    let half = if n % 3 == 0 { DType::F16 } else { DType::BF16 };
                    let (all, shared) = groups[n % groups.len()];
                    let heads = heads(all, shared, unmasked);
                    let view = VIEWS[(j + 2 * k) % VIEWS.len()];
                    for dtype in [DType::F32, half] {
                        let case = Case { batch: 1 + n % 2, len, dim, heads, dtype, view };
                        case.check(device)?;
                    }
                }
            }
        }
        Ok(())
    })
}

#[test]
fn attention_of_every_view() -> Result<()> {
    on_gpu("attention_of_every_view", |device| {
        for view in VIEWS {
            for (dim, dtype) in [(64, DType::F32), (5, DType::F32), (64, DType::BF16)] {
                let case = Case { batch: 2, len: 100, dim, heads: heads(4, 2, 6), dtype, view };
                case.check(device)?;
            }
        }
        Ok(())
    })
}

/// More blocks than the device has room for, and heads of more dimensions than the
/// kernels take.
#[test]
fn attention_of_many_blocks_and_wide_heads() -> Result<()> {
    on_gpu("attention_of_many_blocks_and_wide_heads", |device| {
        let (dtype, view) = (DType::F32, View::Whole);
        for (batch, len, dim, heads) in [
            (32, 130, 64, heads(8, 8, 3)),
            (8, 257, 32, heads(8, 2, 0)),
            (2, 520, 128, heads(2, 1, 130)),
            (2, 70, 129, heads(2, 1, 3)),
        ] {
            Case { batch, len, dim, heads, dtype, view }.check(device)?;
        }
        Ok(())
    })
}
