//! Adam against its formula and by hand.

use super::*;
use candle_core::DType;
use candle_nn::Init;

fn store(n: usize) -> Result<ParameterStore> {
    let store = ParameterStore::new(3);
    let vb = store.var_builder(DType::F32, &Device::Cpu);
    vb.get_with_hints((n, 5), "w", Init::Randn { mean: 0.0, stdev: 1.0 })?;
    Ok(store)
}

fn gradient(n: usize, step: u64) -> Result<Vec<(String, Tensor)>> {
    let hint = Init::Randn { mean: 0.1, stdev: 1.0 };
    let value =
        crate::init::initial_value(step, "g", &(n, 5).into(), hint, DType::F32, &Device::Cpu)?;
    Ok(vec![("w".to_string(), value)])
}

#[test]
fn the_fast_path_is_the_formula() -> Result<()> {
    let config = AdamConfig { weight_decay: 0.01, ..AdamConfig::default() };
    let (fast, plain) = (store(7000)?, store(7000)?);
    let mut adam = Adam::new(config.clone(), &fast)?;
    let twin = Adam::new(config.clone(), &plain)?;
    for step in 1..=4 {
        let gradients = gradient(7000, step)?;
        adam.update(&gradients, 0.01, 0.7)?;
        Rates::new(&config, step, 0.01, 0.7.into())
            .apply_by_formula(&twin.slots["w"], &gradients[0].1)?;
        golden::close("w", &*fast.variable("w")?, &*plain.variable("w")?, 1e-6)?;
    }
    Ok(())
}

/// Two steps by hand, as `torch.optim.Adam(lr=0.1, betas=(0.5, 0.9))`.
#[test]
fn two_steps_by_hand() -> Result<()> {
    let store = ParameterStore::new(0);
    let vb = store.var_builder(DType::F32, &Device::Cpu);
    vb.get_with_hints(1, "w", Init::Const(1.0))?;
    let mut adam = Adam::new(AdamConfig::default(), &store)?;
    let (mut p, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
    for (t, g) in [(1, 2.0f64), (2, -0.5)] {
        let tensor = Tensor::new(&[g as f32], &Device::Cpu)?;
        adam.update(&[("w".to_string(), tensor)], 0.1, 1.0)?;
        m = 0.5 * m + 0.5 * g;
        v = 0.9 * v + 0.1 * g * g;
        let (m_hat, v_hat) = (m / (1.0 - 0.5f64.powi(t)), v / (1.0 - 0.9f64.powi(t)));
        p -= 0.1 * m_hat / (v_hat.sqrt() + 1e-8);
        let actual = f64::from(store.variable("w")?.to_vec1::<f32>()?[0]);
        assert!((actual - p).abs() < 1e-6, "{actual} {p}");
    }
    Ok(())
}

#[test]
fn a_saved_state_continues_exactly() -> Result<()> {
    let (a, b) = (store(40)?, store(40)?);
    let mut one = Adam::new(AdamConfig::default(), &a)?;
    let mut first = Adam::new(AdamConfig::default(), &b)?;
    for step in 1..=3 {
        one.update(&gradient(40, step)?, 0.01, 1.0)?;
        first.update(&gradient(40, step)?, 0.01, 1.0)?;
    }
    let mut second = Adam::new(AdamConfig::default(), &b)?;
    second.load_state(first.step(), &first.state().into_iter().collect())?;
    one.update(&gradient(40, 9)?, 0.01, 1.0)?;
    second.update(&gradient(40, 9)?, 0.01, 1.0)?;
    golden::close("w", &*a.variable("w")?, &*b.variable("w")?, 0.0)
}

#[test]
fn an_update_by_nan_is_none() -> Result<()> {
    let store = store(4)?;
    let mut adam = Adam::new(AdamConfig::default(), &store)?;
    adam.update(&gradient(4, 1)?, 0.01, 1.0)?;
    let copies = |tensors: BTreeMap<String, Tensor>| -> Result<BTreeMap<String, Tensor>> {
        tensors.into_iter().map(|(name, tensor)| Ok((name, tensor.copy()?))).collect()
    };
    let (before, moments) = (copies(store.tensors())?, copies(adam.state())?);
    adam.update(&gradient(4, 2)?, 0.01, f64::NAN)?;
    adam.take_back();
    assert_eq!(adam.step(), 1);
    golden::close("w", &before["w"], &store.tensors()["w"], 0.0)?;
    for (name, moment) in adam.state() {
        golden::close(&name, &moment, &moments[&name], 0.0)?;
    }
    Ok(())
}

#[test]
fn reset_rows_forgets_only_those_rows() -> Result<()> {
    let store = store(4)?;
    let mut adam = Adam::new(AdamConfig::default(), &store)?;
    adam.update(&gradient(4, 1)?, 0.01, 1.0)?;
    adam.reset_rows("w", &[2])?;
    let sums = adam.state()["w.exp_avg_sq"].sum(1)?.to_vec1::<f32>()?;
    assert!(sums[2] == 0.0 && sums[0] > 0.0 && sums[3] > 0.0);
    assert!(adam.reset_rows("w", &[4]).is_err());
    Ok(())
}
