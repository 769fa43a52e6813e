//! What several tests of runs need.

use training::{Event, Observer};

/// Collects the warnings of a run.
#[derive(Default)]
pub struct Warnings(pub Vec<String>);

impl Observer for Warnings {
    fn see(&mut self, event: &Event) {
        if let Event::Warning { message } = event {
            self.0.push(message.to_string());
        }
    }
}
