//! What a first stage reads, and what goes with it.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{PixelLoss, TrainConfig};

/// Which part of its examples a first stage turns into codes and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// Pictures, 3 channels in `[-1, 1]`.
    #[default]
    Pictures,
    /// Label maps, a channel a label; what is made are logits (`VQSegmentationModel` of
    /// taming-transformers).
    Labels,
    /// Depth maps, 1 channel in `[-1, 1]`.
    Depth,
}

/// Labels that fit a byte, as label maps store them.
const MOST_LABELS: usize = 256;

impl TrainConfig {
    /// Checks that losses and channels are those of what is read.
    ///
    /// # Errors
    /// Naming the keys.
    pub(crate) fn check_input(&self) -> Result<()> {
        self.check_losses_of_input()?;
        let (read, made) = (self.model.in_channels, self.model.out_channels);
        let channels = format!("model.in_channels = {read}, model.out_channels = {made}");
        match self.input {
            InputKind::Pictures => ensure!(
                (read, made) == (3, 3),
                "{channels}: pictures have 3 channels; for maps set input = \"labels\" or \"depth\""
            ),
            InputKind::Depth => {
                ensure!((read, made) == (1, 1), "{channels}: depth maps (input) have 1 channel");
            }
            InputKind::Labels => ensure!(
                read == made && (2..=MOST_LABELS).contains(&read),
                "{channels}: label maps (input) have a channel a label, as many in as out, from 2 \
                 to {MOST_LABELS}"
            ),
        }
        Ok(())
    }

    /// The losses alone.
    ///
    /// # Errors
    /// Naming the keys.
    pub(super) fn check_losses_of_input(&self) -> Result<()> {
        let labels = self.input == InputKind::Labels;
        let bce = self.loss.pixel == PixelLoss::Bce;
        ensure!(
            !labels || bce,
            "input = \"labels\" needs loss.pixel = \"bce\": a label has no distance from another"
        );
        ensure!(
            labels || !bce,
            "loss.pixel = \"bce\" is for label maps (input = \"labels\"): the others have values, \
             not labels; take \"l1\" or \"l2\""
        );
        ensure!(
            self.input == InputKind::Pictures
                || (self.loss.perceptual_weight == 0.0 && self.adversarial.weight == 0.0),
            "loss.perceptual_weight = {} and adversarial.weight = {} must be 0 for maps (input): \
             the perceptual loss and the discriminator judge pictures",
            self.loss.perceptual_weight,
            self.adversarial.weight
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::RunConfig;
    use super::*;

    fn parse(settings: &[&str]) -> Result<TrainConfig> {
        let settings: Vec<_> = settings.iter().map(|&setting| setting.to_owned()).collect();
        TrainConfig::parse("", &settings)
    }

    const CHANNELS: [&str; 2] = ["model.in_channels=5", "model.out_channels=5"];

    #[test]
    fn maps_have_their_own_losses_and_channels() -> Result<()> {
        let labels = [&["input=labels", "loss.pixel=bce"], &CHANNELS[..]].concat();
        assert_eq!(parse(&labels)?.input, InputKind::Labels);
        let depth = ["input=depth", "model.in_channels=1", "model.out_channels=1"];
        assert_eq!(parse(&depth)?.loss.pixel, PixelLoss::L1);
        for (settings, says) in [
            (vec!["loss.pixel=bce"], "is for label maps"),
            ([&depth[..], &["loss.pixel=bce"]].concat(), "is for label maps"),
            ([&["input=labels"], &CHANNELS[..]].concat(), "needs loss.pixel"),
            (vec!["input=labels", "loss.pixel=bce", CHANNELS[0]], "as many in as out"),
            (vec!["input=depth"], "1 channel"),
            (CHANNELS.to_vec(), "pictures have 3 channels"),
            ([&labels[..], &["loss.perceptual_weight=1.0"]].concat(), "must be 0 for maps"),
            ([&depth[..], &["adversarial.weight=0.5"]].concat(), "must be 0 for maps"),
            (vec!["input=sound"], "sound"),
        ] {
            let error = parse(&settings).err().map(|e| format!("{e:#}")).unwrap_or_default();
            assert!(error.contains(says), "{settings:?}: {error}");
        }
        // The channels are those of the model that it starts from.
        assert!(parse(&["input=labels", "loss.pixel=bce", "init.model=/some/where"]).is_ok());
        Ok(())
    }
}
