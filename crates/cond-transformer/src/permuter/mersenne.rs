//! NumPy's legacy random permutation: MT19937 (Matsumoto & Nishimura 1998) and a
//! Fisher-Yates shuffle with numbers drawn by masking and rejection.

const LEN: usize = 624;
const SHIFT: usize = 397;

struct Mt19937 {
    state: Vec<u32>,
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Self {
        let mut state = vec![seed];
        for i in 1..LEN as u32 {
            let last = state[i as usize - 1];
            state.push(1_812_433_253_u32.wrapping_mul(last ^ last >> 30).wrapping_add(i));
        }
        Self { state, next: LEN }
    }

    fn twist(&mut self) {
        for i in 0..LEN {
            let bits = self.state[i] & 0x8000_0000 | self.state[(i + 1) % LEN] & 0x7fff_ffff;
            let odd = if bits & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % LEN] ^ bits >> 1 ^ odd;
        }
        self.next = 0;
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == LEN {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    /// Uniform in `0..=largest`.
    fn up_to(&mut self, largest: u32) -> u32 {
        let mask = largest
            .checked_next_power_of_two()
            .map_or(u32::MAX, |power| if power == largest { 2 * power - 1 } else { power - 1 });
        loop {
            let value = self.next_u32() & mask;
            if value <= largest {
                return value;
            }
        }
    }
}

/// `numpy.random.RandomState(seed).permutation(len)`.
pub(super) fn permutation(seed: u32, len: u32) -> Vec<u32> {
    let mut generator = Mt19937::new(seed);
    let mut order: Vec<u32> = (0..len).collect();
    for i in (1..len).rev() {
        order.swap(i as usize, generator.up_to(i) as usize);
    }
    order
}
