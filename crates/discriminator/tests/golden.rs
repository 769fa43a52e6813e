//! The reference's discriminators and adversarial losses.

use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use discriminator::{
    Critic, DiscriminatorLoss, GeneratorLoss, Norm, PatchGan, PatchGanConfig, hinge_d_loss,
};
use golden::Group;

/// The tensors below `prefix` as variables, by their names behind it.
fn variables(tensors: HashMap<String, Tensor>, prefix: &str) -> Result<HashMap<String, Tensor>> {
    let mut out = HashMap::new();
    for (name, tensor) in tensors {
        if let Some(name) = name.strip_prefix(prefix) {
            out.insert(name.to_string(), Var::from_tensor(&tensor)?.into_inner());
        }
    }
    Ok(out)
}

fn builder(tensors: &HashMap<String, Tensor>) -> VarBuilder<'static> {
    VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu)
}

fn whole(value: &serde_json::Value, what: &str) -> Result<usize> {
    Ok(value.as_u64().with_context(|| format!("manifest: no {what}"))? as usize)
}

fn check_variant(group: &Group, variant: &str, norm: Norm) -> Result<()> {
    let inputs = group.inputs()?;
    let (real, fake) = (&inputs["real"], &inputs["fake"]);
    let sizes = &group.manifest()["config"];
    let config = PatchGanConfig {
        in_channels: real.dim(1)?,
        ndf: whole(&sizes["ndf"], "ndf")?,
        n_layers: whole(&sizes["n_layers"], "n_layers")?,
        norm,
        spectral: false,
    };
    let store = variables(group.tensors(&format!("model_{variant}.safetensors"))?, "")?;
    let critic = PatchGan::new(&config, builder(&store))?;
    let expected = group.expected(&format!("outputs_{variant}.safetensors"))?;
    let key = |rest: &str| format!("{variant}/{rest}");

    let on_real = critic.logits(real, true)?;
    // What the first batch left behind, before the second forward.
    for name in expected.names() {
        if let Some(parameter) = name.strip_prefix(&key("init/")) {
            expected.check(name, &store[parameter])?;
        }
    }
    let on_fake = critic.logits(fake, true)?;
    expected.check(&key("train/real"), &on_real)?;
    expected.check(&key("train/fake"), &on_fake)?;

    let grads = hinge_d_loss(&on_real, &on_fake)?.backward()?;
    for name in expected.names() {
        if let Some(parameter) = name.strip_prefix(&key("grad/")) {
            let grad = grads.get(&store[parameter]).context("no gradient")?;
            expected.check(name, grad)?;
        }
        if let Some(buffer) = name.strip_prefix(&key("buffer/")) {
            expected.check(name, &store[buffer])?;
        }
    }
    expected.check(&key("eval/real"), &critic.logits(real, false)?)?;
    expected.check(&key("eval/fake"), &critic.logits(fake, false)?)?;

    let scalar = |name: &str, loss: Tensor| -> Result<()> {
        group.check_scalar(&key(name), f64::from(loss.to_scalar::<f32>()?))
    };
    use DiscriminatorLoss as D;
    use GeneratorLoss as G;
    scalar("train/hinge", D::Hinge.loss(&on_real, &on_fake)?)?;
    scalar("train/vanilla", D::Vanilla.loss(&on_real, &on_fake)?)?;
    scalar("train/non_saturating_d", D::LlamaGenNonSaturating.loss(&on_real, &on_fake)?)?;
    scalar("train/non_saturating_g", G::LlamaGenNonSaturating.loss(&on_fake)?)?;
    scalar("train/g_hinge", G::Hinge.loss(&on_fake)?)
}

#[test]
fn batch_norm_patchgan_is_the_reference() -> Result<()> {
    let Some(group) = golden::group("discriminators")? else { return Ok(()) };
    check_variant(&group, "bn", Norm::Batch)
}

#[test]
fn act_norm_patchgan_is_the_reference() -> Result<()> {
    let Some(group) = golden::group("discriminators")? else { return Ok(()) };
    check_variant(&group, "actnorm", Norm::ActNorm)
}

#[test]
fn validation_logits_are_the_reference() -> Result<()> {
    let Some(group) = golden::group("vqgan_a")? else { return Ok(()) };
    let prefix = "loss.discriminator.";
    let store = variables(group.tensors("model.safetensors")?, prefix)?;
    let sizes = &group.manifest()["config"]["loss"];
    let config = PatchGanConfig {
        in_channels: whole(&sizes["disc_in_channels"], "disc_in_channels")?,
        ndf: whole(&sizes["disc_ndf"], "disc_ndf")?,
        n_layers: whole(&sizes["disc_num_layers"], "disc_num_layers")?,
        norm: Norm::Batch,
        spectral: false,
    };
    let critic = PatchGan::new(&config, builder(&store))?;
    let expected = group.expected("outputs.safetensors")?;
    let real = critic.logits(&group.inputs()?["x"], false)?;
    let fake = critic.logits(expected.get("rec")?, false)?;
    expected.check("val/logits_real_map", &real)?;
    expected.check("val/logits_fake_map", &fake)?;

    let mean = |t: Tensor| -> Result<f64> { Ok(f64::from(t.mean_all()?.to_scalar::<f32>()?)) };
    group.check_scalar("val/disc_loss", mean(hinge_d_loss(&real, &fake)?)?)?;
    group.check_scalar("val/g_loss", mean(GeneratorLoss::Hinge.loss(&fake)?)?)?;
    group.check_scalar("val/logits_real", mean(real)?)?;
    group.check_scalar("val/logits_fake", mean(fake)?)
}
