use std::fs;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parse(text: &str) -> Result<Value> {
    ReferenceConfig::parse("a.yaml", text).map(|config| config.root)
}

fn message<T>(result: Result<T>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

const SAMPLE: &str = "\
model:
  base_learning_rate: 4.5e-06
  target: taming.models.vqgan.VQModel
  params:
    embed_dim: 8
    monitor: val/rec_loss
    ddconfig:
      double_z: false
      ch_mult: [1, 2]
      attn_resolutions:
      - 32
      dropout: 0.0
    lossconfig:
      target: taming.modules.losses.DummyLoss
    ckpt_path: null
";

#[test]
fn a_model_is_a_target_with_params() -> anyhow::Result<()> {
    let model = ReferenceConfig::parse("a.yaml", SAMPLE)?.model()?;
    assert_eq!(model.target, "taming.models.vqgan.VQModel");
    assert_eq!(model.base_learning_rate, Some(4.5e-6));
    assert_eq!(
        model.params,
        json!({
            "embed_dim": 8,
            "monitor": "val/rec_loss",
            "ddconfig": {
                "double_z": false, "ch_mult": [1, 2], "attn_resolutions": [32], "dropout": 0.0,
            },
            "lossconfig": {"target": "taming.modules.losses.DummyLoss"},
            "ckpt_path": null,
        })
    );
    let loss = ModelSpec::from_node(&model.params["lossconfig"]).map_err(anyhow::Error::msg)?;
    assert_eq!(loss.params, json!({}));
    Ok(())
}

#[test]
fn what_is_no_model_is_said() {
    for (text, part) in [
        ("lightning:\n  trainer: {}\n", "lightning.yaml"),
        ("model:\n  params: {}\n", "target"),
        ("model:\n  target: a\n  params: 3\n", "mapping"),
    ] {
        let error = ReferenceConfig::parse("a.yaml", text).and_then(|c| c.model().map(drop));
        let error = message(error);
        assert!(error.contains("a.yaml") && error.contains(part), "{error}");
    }
    for (text, part) in [
        ("- 1\n", "mapping"),
        ("", "mapping"),
        ("a: [1\n", "YAML"),
        ("a: 1\na: 2\n", "YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "YAML"),
        ("a: &x [*x]\n", "YAML"),
    ] {
        let error = message(parse(text));
        assert!(error.contains(part), "{text:?}: {error:?}");
    }
}

#[test]
fn interpolations_take_whole_nodes_or_are_written_out() -> anyhow::Result<()> {
    let text = "\
size: 256
data: {train: {size: '${size}'}, val: '${data.train}', name: 'n-${size}-${flag}.txt'}
flag: true
list: [1, '${list.0}', '${list[0]}']
same: ${data.val.size}
";
    let expected = json!({
        "size": 256,
        "data": {"train": {"size": 256}, "val": {"size": 256}, "name": "n-256-True.txt"},
        "flag": true,
        "list": [1, 1, 1],
        "same": 256,
    });
    assert_eq!(parse(text)?, expected);
    Ok(())
}

#[test]
fn bad_interpolations_are_named() {
    let mut doubling = String::from("a0: xxxxxxxxxxxxxxxx\n");
    let mut nodes = String::from("a0: [1, 1]\n");
    let mut chain = String::from("a0: 1\n");
    for i in 1..200 {
        let before = i - 1;
        doubling += &format!("a{i}: '${{a{before}}}${{a{before}}}'\n");
        if i < 40 {
            nodes += &format!("a{i}: ['${{a{before}}}', '${{a{before}}}']\n");
        }
        chain += &format!("a{i}: '${{a{before}}}'\n");
    }
    for (text, part) in [
        ("a: ${b}\nb: ${a}\n", "back to itself"),
        ("a: {b: '${a}'}\n", "back to itself"),
        ("a: ${b.c}\nb: {d: 1}\n", "no \"c\""),
        ("a: ${b.c}\nb: 1\n", "no \"c\""),
        ("a: ${b\n", "no end"),
        ("a: ${env:HOME}\n", "${env:HOME} is not supported"),
        ("a: {b: '${.c}'}\n", "not supported"),
        ("a: x${b}\nb: []\n", "inside a string"),
        (&doubling, "more than"),
        (&nodes, "more than"),
        (&chain, "deeper"),
    ] {
        let error = message(parse(text));
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn alias_bombs_are_refused() {
    let mut bomb = String::from("a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n");
    for i in 1..12 {
        let item = format!("*a{}", i - 1);
        bomb += &format!("a{i}: &a{i} [{}]\n", [item.as_str(); 8].join(", "));
    }
    assert!(parse(&bomb).is_err());
    assert!(parse(&format!("a: {}", "[".repeat(10_000))).is_err());
    let deep: String = (0..1000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(parse(&deep).is_err());
}

#[test]
fn a_run_folder_has_its_parts() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let run = dir.path();
    assert!(!ReferenceRun::is_one(run));
    fs::create_dir(run.join("configs"))?;
    fs::create_dir(run.join("checkpoints"))?;
    assert!(ReferenceRun::is_one(run));
    fs::write(run.join("configs/2020-11-09-lightning.yaml"), "lightning: {}")?;
    assert!(message(ReferenceRun::open(run)).contains("2020-11-09-lightning.yaml"));
    fs::write(run.join("configs/2020-11-09-project.yaml"), SAMPLE)?;
    fs::write(
        run.join("configs/2020-11-10-project.yaml"),
        "model: {params: {embed_dim: 16, ddconfig: {ch_mult: [4]}}}",
    )?;
    fs::write(run.join("checkpoints/epoch=1.ckpt"), "")?;
    assert!(message(ReferenceRun::open(run)).contains("epoch=1.ckpt"));
    fs::write(run.join("checkpoints/last.ckpt"), "")?;
    let found = ReferenceRun::open(run)?;
    assert_eq!(found.configs.len(), 2);
    let params = found.config()?.model()?.params;
    assert_eq!(params["embed_dim"], 16);
    assert_eq!(params["ddconfig"]["ch_mult"], json!([4]));
    assert_eq!(params["ddconfig"]["dropout"], 0.0);
    assert_eq!(ReferenceRun::of_checkpoint(run.join("checkpoints/last.ckpt")), Some(found));
    assert_eq!(ReferenceRun::of_checkpoint(run.join("configs/last.ckpt")), None);
    Ok(())
}

proptest! {
    #[test]
    fn no_text_panics(text in "[a-c:{}\\[\\]&*$. \n'\"0-9!|>-]{0,120}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_changed_byte_panics(at in 0..SAMPLE.len(), byte in 0_u8..128) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = String::from_utf8(bytes).map(|text| parse(&text));
    }

    #[test]
    fn truncation_never_panics(at in 0..SAMPLE.len()) {
        let _ = ReferenceConfig::parse("a", &SAMPLE[..at]).and_then(|config| config.model());
    }
}
