//! The orders, as lists of row-major indices.

/// Recursive 2x2 polyphase: at each level, the phase in the block before the block.
pub(super) fn subsample(side: usize) -> Vec<u32> {
    let levels = side.trailing_zeros();
    (0..side * side)
        .map(|place| {
            // The coarsest phase is the most significant base-4 digit of the place
            // and the least significant bit of row and column.
            let (mut row, mut column) = (0, 0);
            for level in 0..levels {
                let phase = place >> (2 * (levels - 1 - level)) & 3;
                row |= (phase >> 1) << level;
                column |= (phase & 1) << level;
            }
            (row * side + column) as u32
        })
        .collect()
}

/// Row bits in odd, column bits in even places; other sizes than powers of two
/// follow the same curve with gaps.
pub(super) fn z_curve(height: usize, width: usize) -> Vec<u32> {
    let spread = |x: usize| (0..32).fold(0_u64, |z, bit| z | ((x as u64 >> bit) & 1) << (2 * bit));
    let mut order: Vec<u32> = (0..(height * width) as u32).collect();
    order.sort_by_key(|&index| {
        let (row, column) = (index as usize / width, index as usize % width);
        spread(row) << 1 | spread(column)
    });
    order
}

/// From `(side / 2, side / 2 - 1)`: up, right, down, left with growing steps.
pub(super) fn spiral_out(side: usize) -> Vec<u32> {
    const TURNS: [(isize, isize); 4] = [(-1, 0), (0, 1), (1, 0), (0, -1)];
    let (mut row, mut column) = ((side / 2) as isize, (side / 2) as isize - 1);
    let mut order = vec![(row as usize * side + column as usize) as u32];
    for (leg, (down, right)) in TURNS.iter().cycle().enumerate() {
        for _ in 0..leg / 2 + 1 {
            if order.len() == side * side {
                return order;
            }
            row += down;
            column += right;
            order.push((row as usize * side + column as usize) as u32);
        }
        if order.len() == side * side {
            break;
        }
    }
    order
}

/// Every second row from right to left (boustrophedon).
pub(super) fn alternate(height: usize, width: usize) -> Vec<u32> {
    (0..height)
        .flat_map(|row| {
            (0..width).map(move |step| {
                let column = if row % 2 == 0 { step } else { width - 1 - step };
                (row * width + column) as u32
            })
        })
        .collect()
}
