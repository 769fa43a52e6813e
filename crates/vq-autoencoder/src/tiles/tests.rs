use proptest::prelude::*;

use super::*;

fn check(len: usize, tile: usize, overlap: usize, factor: usize) -> Result<()> {
    let spans = cover(len, tile, overlap, factor)?;
    // Every cell is owned once, in order, by a tile that covers it.
    let mut next = 0;
    for span in &spans {
        assert_eq!(span.owned.start, next, "{spans:?}");
        assert!(span.owned.start >= span.cells.start && span.owned.end <= span.cells.end);
        assert!(!span.owned.is_empty() && span.cells.len() <= tile.min(len));
        next = span.owned.end;
    }
    assert_eq!(next, len);
    for pair in spans.windows(2) {
        assert!(pair[0].cells.end >= pair[1].cells.start + overlap, "{spans:?}");
    }
    // Weights add to 1, and are 0 outside the tile.
    for pixel in 0..len * factor {
        let mut sum = 0.0;
        for span in &spans {
            let weight = span.weight(pixel);
            if !(span.cells.start * factor..span.cells.end * factor).contains(&pixel) {
                assert_eq!(weight, 0.0, "pixel {pixel} of {span:?}");
            }
            sum += weight;
        }
        assert!((sum - 1.0).abs() < 1e-6, "pixel {pixel}: {sum} in {spans:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn tiles_cover_a_side_and_weights_add_to_one(
        len in 1_usize..200,
        tile in 1_usize..64,
        overlap in 0_usize..16,
        factor in 1_usize..9,
    ) {
        let overlap = overlap.min(tile / 4);
        prop_assert!(check(len, tile, overlap, factor).is_ok());
    }
}

proptest! {
    #[test]
    fn a_sample_is_as_long_as_a_tile_and_reaches_both_ends(
        len in 1_usize..300,
        tile in 8_usize..64,
    ) {
        let Ok(spans) = cover(len, tile, 2, 4) else { return Err(TestCaseError::fail("cover")) };
        let cells = sample(&spans);
        prop_assert_eq!(cells.len(), spans[0].cells.len());
        prop_assert!(cells.is_sorted());
        prop_assert_eq!(cells[0], 0);
        prop_assert!(cells.iter().all(|&cell| (cell as usize) < len));
        if spans.len() == 1 || cells.len() >= 2 * MIN_PATCH {
            prop_assert_eq!(cells[cells.len() - 1] as usize, len - 1);
        }
    }
}

#[test]
fn a_side_that_fits_is_one_tile() -> Result<()> {
    assert_eq!(cover(32, 32, 8, 16)?, vec![Span::whole(32, 16)]);
    Ok(())
}

#[test]
fn tiles_are_no_longer_than_needed() -> Result<()> {
    let spans = cover(44, 32, 8, 16)?;
    let cells: Vec<_> = spans.iter().map(|span| span.cells.clone()).collect();
    assert_eq!(cells, [0..26, 18..44]);
    let owned: Vec<_> = spans.iter().map(|span| span.owned.clone()).collect();
    assert_eq!(owned, [0..22, 22..44]);
    Ok(())
}

#[test]
fn impossible_tiles_are_refused() {
    for (tile, overlap) in [(0, 0), (3, 1), (8, 3)] {
        assert!(matches!(cover(100, tile, overlap, 16), Err(Error::Tiles(_))));
    }
}
