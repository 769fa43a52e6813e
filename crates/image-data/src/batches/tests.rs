use anyhow::Result;
use image::{Rgb, RgbImage};
use proptest::prelude::*;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::*;

/// Pictures of one random pixel; some cannot be read.
struct Numbers {
    len: usize,
    broken: Vec<usize>,
}

impl Dataset for Numbers {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, index: usize, rng: &mut ChaCha8Rng) -> Result<Example, Error> {
        if self.broken.contains(&index) {
            return Err(Error::argument("test", format!("picture {index} is broken")));
        }
        let image = RgbImage::from_pixel(1, 1, Rgb([index as u8, rng.next_u32() as u8, 0]));
        Ok(Example::new(image, index.to_string()))
    }
}

fn numbers(len: usize, broken: &[usize]) -> Arc<dyn Dataset> {
    Arc::new(Numbers { len, broken: broken.to_vec() })
}

/// What a batch shows, comparable: names, values, where the next begins.
type Content = (Vec<String>, Vec<f32>, Position);

fn content(batch: &Batch) -> Result<Content> {
    Ok((batch.names.clone(), batch.images.flatten_all()?.to_vec1()?, batch.next))
}

fn first(batches: Batches, count: usize) -> Result<Vec<Content>> {
    batches.take(count).map(|batch| content(&batch?)).collect()
}

#[test]
fn every_epoch_visits_every_picture_once() -> Result<()> {
    let batches = Batches::new(numbers(10, &[]), 4, 1, 0, 0, 2)?;
    let seen = first(batches, 6)?;
    let sizes: Vec<_> = seen.iter().map(|(names, ..)| names.len()).collect();
    assert_eq!(sizes, [4, 4, 2, 4, 4, 2]);
    for epoch in seen.chunks(3) {
        let mut names: Vec<_> = epoch.iter().flat_map(|(names, ..)| names.clone()).collect();
        names.sort();
        assert_eq!(names, (0..10).map(|i| i.to_string()).collect::<Vec<_>>());
    }
    assert_ne!(seen[0].0, seen[3].0);
    assert_eq!(seen[5].2, Position { epoch: 2, index: 0 });
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn workers_and_restarts_change_nothing(
        len in 2_usize..30,
        batch_size in 1_usize..7,
        workers in 0_usize..5,
        restart in 0_usize..6,
        broken in prop::collection::vec(1_usize..30, 0..4),
        seed in any::<u64>(),
    ) {
        let fail = |e: anyhow::Error| TestCaseError::fail(e.to_string());
        let begin = |at: Position, workers| {
            Batches::new(numbers(len, &broken), batch_size, seed, at.epoch, at.index, workers)
                .map_err(|e| TestCaseError::fail(e.to_string()))
        };
        let whole = first(begin(Position::default(), 0)?, 8).map_err(fail)?;
        let other = first(begin(Position::default(), workers)?, 8).map_err(fail)?;
        prop_assert_eq!(&whole, &other);
        let rest = first(begin(whole[restart].2, workers)?, 7 - restart).map_err(fail)?;
        prop_assert_eq!(&whole[restart + 1..], &rest[..]);
    }
}

#[test]
fn unreadable_pictures_are_named_and_replaced() -> Result<()> {
    let mut batches = Batches::new(numbers(9, &[2, 5]), 3, 0, 0, 0, 2)?;
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(batches.next().transpose()?.map(|batch| batch.names).unwrap_or_default());
    }
    assert_eq!(names.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
    let unreadable: Vec<_> = batches.unreadable().iter().collect();
    assert_eq!(unreadable.iter().map(|(i, _)| **i).collect::<Vec<_>>(), [2, 5]);
    assert!(unreadable[0].1.contains("picture 2 is broken"));
    Ok(())
}

#[test]
fn nothing_readable_ends_with_an_error() -> Result<()> {
    for workers in [0, 2] {
        let mut batches = Batches::new(numbers(3, &[0, 1, 2]), 2, 0, 0, 1, workers)?;
        let message = batches.next().and_then(Result::err).map(|e| e.to_string());
        assert!(message.is_some_and(|m| m.contains("0 of 3") && m.contains("is broken")));
        assert!(batches.next().is_none());
    }
    let plan = BatchPlan { drop_last: true, ..BatchPlan::new(4, 0) };
    let mut batches = Batches::with_plan(numbers(5, &[0, 1]), plan)?;
    let message = batches.next().and_then(Result::err).map(|e| e.to_string());
    assert!(message.is_some_and(|m| m.contains("3 of 5") && m.contains("batch of 4")));
    Ok(())
}

#[test]
fn one_pass_in_order_ends() -> Result<()> {
    for workers in [0, 3] {
        let plan = BatchPlan {
            workers,
            shuffle: false,
            end_epoch: Some(1),
            drop_last: true,
            ..BatchPlan::new(2, 0)
        };
        let seen = first(Batches::with_plan(numbers(5, &[1]), plan)?, 9)?;
        let names: Vec<_> = seen.into_iter().map(|(names, ..)| names).collect();
        assert_eq!(names, [["0", "2"], ["3", "4"]]);
    }
    Ok(())
}

#[test]
fn impossible_plans_are_errors() {
    assert!(Batches::new(numbers(0, &[]), 1, 0, 0, 0, 0).is_err());
    assert!(Batches::new(numbers(3, &[]), 0, 0, 0, 0, 0).is_err());
    assert!(Batches::new(numbers(3, &[]), 1, 0, 0, 4, 0).is_err());
    assert!(Batches::new(numbers(3, &[]), 1, 0, 0, 3, 0).is_ok());
}
