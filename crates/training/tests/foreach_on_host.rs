//! The CUDA kernels for many tensors at once, compiled for the CPU by a C++ compiler, against
//! this crate's code for the CPU: bit for bit. They run twice, watched for accesses outside of
//! buffers, and for those of two threads that nothing orders. Where there is no compiler that will
//! do, the tests say so and pass.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::Init;
use golden::kernels_on_host::{Program, Watch};
use training::{Adam, AdamConfig, Average, ParameterStore, initial_value};

/// Around the sizes of a vector, a block's threads and a block's part.
const LENGTHS: [usize; 14] =
    [1, 3, 4, 5, 255, 1023, 1024, 1025, 8191, 8192, 8193, 16384, 20000, 24577];

/// The compiled drivers, if there is a compiler; made once for all tests.
fn drivers(test: &str) -> Result<Option<&'static [Program]>> {
    static DRIVERS: OnceLock<std::result::Result<Vec<Program>, String>> = OnceLock::new();
    match DRIVERS.get_or_init(|| compile().map_err(|error| format!("{error:#}"))) {
        Ok(drivers) if drivers.is_empty() => {
            println!("skipped: no C++ compiler with C++20 and _Float16 ({test})");
            Ok(None)
        }
        Ok(drivers) => Ok(Some(drivers)),
        Err(error) => anyhow::bail!("{error}"),
    }
}

fn compile() -> Result<Vec<Program>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kernels = root.join("../layers/src/cuda/foreach.cu");
    let watched = [Watch::Memory, Watch::Races].map(|watch| {
        golden::kernels_on_host::compile(
            &root.join("tests/foreach_on_host"),
            &[("FOREACH", kernels.clone())],
            Path::new(env!("CARGO_TARGET_TMPDIR")),
            watch,
        )
    });
    watched.into_iter().filter_map(Result::transpose).collect()
}

/// A row of the table: by how many elements its tensors begin late, its own number, and its
/// tensors' bytes.
struct Row {
    late: usize,
    own: f32,
    tensors: Vec<Vec<u8>>,
}

/// What kernel `kind` writes, one row's written tensors after the other.
fn run(
    drivers: &[Program],
    kind: u64,
    numbers: [f32; 7],
    size: usize,
    rows: &[Row],
) -> Result<Vec<u8>> {
    let mut input = Vec::new();
    for number in [kind, rows.len() as u64] {
        input.extend(number.to_le_bytes());
    }
    numbers.iter().for_each(|number| input.extend(number.to_le_bytes()));
    for Row { late, own, tensors } in rows {
        let len = tensors.last().context("a row without tensors")?.len() / size;
        input.extend((len as u64).to_le_bytes());
        input.extend((*late as u64).to_le_bytes());
        input.extend(own.to_le_bytes());
        tensors.iter().for_each(|tensor| input.extend(tensor));
    }
    let mut written = None;
    for driver in drivers {
        let mut command = driver.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        // It reads all before it writes.
        child.stdin.take().context("no pipe")?.write_all(&input)?;
        let output = child.wait_with_output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{driver:?} failed: {}\n{errors}", output.status);
        ensure!(written.is_none_or(|before| before == output.stdout), "{driver:?} differs");
        written = Some(output.stdout);
    }
    written.context("no driver")
}

fn noise(seed: u64, len: usize) -> Result<Tensor> {
    let hint = Init::Randn { mean: 0.01, stdev: 1.0 };
    Ok(initial_value(seed, "noise", &len.into(), hint, DType::F32, &Device::Cpu)?)
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(tensor.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect())
}

fn store(seed: u64) -> Result<ParameterStore> {
    let store = ParameterStore::new(seed);
    let vb = store.var_builder(DType::F32, &Device::Cpu);
    for (i, len) in LENGTHS.into_iter().enumerate() {
        vb.get_with_hints(len, &name(i), Init::Randn { mean: 0.0, stdev: 0.1 })?;
    }
    Ok(store)
}

fn name(i: usize) -> String {
    format!("p{i:02}")
}

/// Every third parameter does not decay, and every fourth begins where four of its elements
/// cannot be loaded at once.
#[test]
fn adam_is_that_of_the_cpu() -> Result<()> {
    let Some(drivers) = drivers("adam_is_that_of_the_cpu")? else { return Ok(()) };
    let config = AdamConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.05 };
    let (lr, scale) = (3e-3, 0.37);
    let store = store(5)?;
    let decays = |i: usize| !i.is_multiple_of(3);
    let decays_by_name = |name: &str, _| name[1..].parse().is_ok_and(decays);
    let mut adam = Adam::with_groups(config.clone(), &store, decays_by_name)?;
    for step in 1..=4 {
        let mut rows = Vec::new();
        let mut gradients = Vec::new();
        for (i, len) in LENGTHS.into_iter().enumerate() {
            let gradient = noise(100 * step as u64 + i as u64, len)?;
            let state = adam.state();
            let moment = |suffix| bytes(&state[&format!("{}.{suffix}", name(i))]);
            rows.push(Row {
                late: usize::from(i % 4 == 1),
                own: if decays(i) { (1.0 - lr * config.weight_decay) as f32 } else { 1.0 },
                tensors: vec![
                    bytes(&*store.variable(&name(i))?)?,
                    moment("exp_avg")?,
                    moment("exp_avg_sq")?,
                    bytes(&gradient)?,
                ],
            });
            gradients.push((name(i), gradient));
        }
        let numbers = [
            scale,
            1.0 - config.beta1,
            config.beta2,
            1.0 - config.beta2,
            lr / (1.0 - config.beta1.powi(step)),
            (1.0 - config.beta2.powi(step)).sqrt(),
            config.eps,
        ];
        let mut numbers = numbers.map(|number| number as f32);
        let actual = run(drivers, 0, numbers, 4, &rows)?;
        assert!(run(drivers, 11, numbers, 4, &rows)? == actual, "step {step}, by a gate");
        numbers[0] = f32::NAN;
        let rest = rows.iter().flat_map(|row| row.tensors[..3].concat()).collect::<Vec<_>>();
        assert!(run(drivers, 11, numbers, 4, &rows)? == rest, "step {step}, a closed gate");
        adam.update(&gradients, lr, scale)?;
        let mut expected = Vec::new();
        for i in 0..LENGTHS.len() {
            expected.extend(bytes(&*store.variable(&name(i))?)?);
            for suffix in ["exp_avg", "exp_avg_sq"] {
                expected.extend(bytes(&adam.state()[&format!("{}.{suffix}", name(i))])?);
            }
        }
        assert!(actual == expected, "step {step}");
    }
    Ok(())
}

/// Terms and codes of more values than a block has threads; something broken at either end.
#[test]
fn a_gate_is_what_clipping_says_or_closed() -> Result<()> {
    let Some(drivers) = drivers("a_gate_is_what_clipping_says_or_closed")? else { return Ok(()) };
    let gate = |change: &dyn Fn(&mut [f64]), numbers: [f32; 5]| -> Result<f32> {
        let mut values = (0..1500).map(|i| if i < 9 { 2.5 } else { i as f64 }).collect::<Vec<_>>();
        change(&mut values);
        let tensor = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut all = [0f32; 7];
        all[..5].copy_from_slice(&numbers);
        let row = Row { late: 0, own: 0.0, tensors: vec![tensor] };
        let said = run(drivers, 12, all, 8, &[row])?;
        Ok(f32::from_le_bytes(said[..].try_into()?))
    };
    let none = |_: &mut [f64]| ();
    let expected = (1.0 / (2.5 + 1e-6)) as f32;
    assert_eq!(gate(&none, [9.0, 3.0, 1.0, 0.0, 0.0])?, expected);
    assert_eq!(gate(&none, [9.0, 3.0, 1.0, 1.0, 0.5])?, expected);
    assert_eq!(gate(&none, [9.0, 3.0, 0.0, 0.0, 0.0])?, 1.0);
    assert_eq!(gate(&none, [9.0, 3.0, 5.0, 0.0, 0.0])?, 1.0);
    assert!(gate(&none, [9.0, 3.0, 1.0, 1.0, f32::NAN])?.is_nan());
    assert!(gate(&none, [9.0, 3.0, f32::NAN, 0.0, 0.0])?.is_nan());
    for (at, value) in [(0, f64::NAN), (8, f64::INFINITY), (9, 4294967295.0), (1499, 4294967295.0)]
    {
        assert!(gate(&|values| values[at] = value, [9.0, 3.0, 1.0, 0.0, 0.0])?.is_nan(), "{at}");
    }
    // The largest code is not among the terms.
    assert_eq!(gate(&|values| values[0] = 4294967295.0, [9.0, 3.0, 0.0, 0.0, 0.0])?, 1.0);
    Ok(())
}

#[test]
fn the_average_is_that_of_the_cpu() -> Result<()> {
    let Some(drivers) = drivers("the_average_is_that_of_the_cpu")? else { return Ok(()) };
    let source = store(7)?;
    let build = |own: &ParameterStore| {
        let vb = own.var_builder(DType::F32, &Device::Cpu);
        for (i, len) in LENGTHS.into_iter().enumerate() {
            vb.get(len, &name(i))?;
        }
        Ok(())
    };
    let average = Average::new(0.99, &source, build)?;
    let mut rows = Vec::new();
    for (i, len) in LENGTHS.into_iter().enumerate() {
        source.variable(&name(i))?.set(&noise(i as u64, len)?)?;
        let pair = [average.parameters.variable(&name(i))?, source.variable(&name(i))?];
        let tensors = pair.iter().map(|var| bytes(var)).collect::<Result<_>>()?;
        rows.push(Row { late: i % 3, own: 0.0, tensors });
    }
    let mut numbers = [0f32; 7];
    numbers[0] = (1.0 - 3.0 / 12.0f64) as f32;
    let actual = run(drivers, 1, numbers, 4, &rows)?;
    average.follow(&source, 2)?;
    let mut expected = Vec::new();
    for i in 0..LENGTHS.len() {
        expected.extend(bytes(&*average.parameters.variable(&name(i))?)?);
    }
    assert!(actual == expected);
    Ok(())
}

#[test]
fn the_norm_is_exact_but_for_the_order_of_sums() -> Result<()> {
    let Some(drivers) = drivers("the_norm_is_exact_but_for_the_order_of_sums")? else {
        return Ok(());
    };
    let (mut rows, mut total) = (Vec::new(), 0.0);
    for (i, len) in LENGTHS.into_iter().enumerate() {
        let values = noise(i as u64, len)?;
        total += values.to_vec1::<f32>()?.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        rows.push(Row { late: i % 3, own: 0.0, tensors: vec![bytes(&values)?] });
    }
    let actual = run(drivers, 2, [0.0; 7], 4, &rows)?;
    let actual = f64::from_le_bytes(actual.try_into().map_err(|_| anyhow::anyhow!("8 bytes"))?);
    ensure!((actual / total.sqrt() - 1.0).abs() < 1e-14, "{actual} instead of {}", total.sqrt());
    Ok(())
}

/// Rounded on the way there, exact on the way back.
#[test]
fn conversions_are_those_of_the_cpu() -> Result<()> {
    let Some(drivers) = drivers("conversions_are_those_of_the_cpu")? else { return Ok(()) };
    let mut given = Vec::new();
    for (i, len) in LENGTHS.into_iter().enumerate() {
        given.push(noise(i as u64, len)?);
    }
    let through = |kind, from: &[Vec<u8>], sizes: [usize; 2]| -> Result<Vec<Vec<u8>>> {
        let row = |(i, from): (usize, &Vec<u8>)| {
            let empty = vec![0; from.len() / sizes[1] * sizes[0]];
            Row { late: i % 3, own: 0.0, tensors: vec![empty, from.clone()] }
        };
        let rows: Vec<_> = from.iter().enumerate().map(row).collect();
        let mut rest = &run(drivers, kind, [0.0; 7], sizes[1], &rows)?[..];
        let mut made = Vec::new();
        for row in &rows {
            let (own, others) = rest.split_at(row.tensors[0].len());
            made.push(own.to_vec());
            rest = others;
        }
        Ok(made)
    };
    let exact = given.iter().map(bytes).collect::<Result<Vec<_>>>()?;
    assert!(through(3, &exact, [4, 4])? == exact);
    for (there, back, dtype) in [(4, 6, DType::F16), (5, 7, DType::BF16)] {
        let half = through(there, &exact, [2, 4])?;
        let expected = given.iter().map(|t| bytes(&t.to_dtype(dtype)?.to_dtype(DType::F32)?));
        assert!(
            through(back, &half, [4, 2])? == expected.collect::<Result<Vec<_>>>()?,
            "{dtype:?}"
        );
    }
    let wide = |t: &Tensor| -> Result<Vec<u8>> {
        let values = t.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        Ok(values.into_iter().flat_map(f64::to_le_bytes).collect())
    };
    let expected = given.iter().map(wide).collect::<Result<Vec<_>>>()?;
    assert!(through(8, &exact, [8, 4])? == expected);
    assert!(through(9, &expected, [8, 8])? == expected);
    let codes: Vec<u8> = [0, 7, u32::MAX].iter().flat_map(|code| code.to_le_bytes()).collect();
    let numbers = [0.0, 7.0, f64::from(u32::MAX)];
    let wide: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    assert!(through(10, &[codes], [8, 4])? == [wide]);
    Ok(())
}
