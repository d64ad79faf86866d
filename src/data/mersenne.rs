//! `torch.randperm(n, generator)` on the CPU, bit for bit: the order in which transformers' Trainer hands out the rows of
//! a training set.

const WORDS: usize = 624;
const SHIFT: usize = 397;

/// `torch.randperm(count, generator=torch.Generator().manual_seed(seed))`, for fewer than 2³² / 20 rows: torch draws 64 bits
/// a number from there on.
pub(crate) fn randperm(seed: u64, count: usize) -> Vec<usize> {
    let mut generator = Mt19937::new(seed);
    let mut order: Vec<usize> = (0..count).collect();
    for first in 0..count.saturating_sub(1) {
        let ahead = generator.next_u32() as usize % (count - first);
        order.swap(first, first + ahead);
    }
    order
}

/// The Mersenne Twister of 32 bits (Matsumoto and Nishimura 1998), seeded as torch seeds it.
struct Mt19937 {
    state: [u32; WORDS],
    next: usize,
}

impl Mt19937 {
    /// Of a seed torch takes the lower 32 bits.
    fn new(seed: u64) -> Self {
        let mut state = [seed as u32; WORDS];
        for index in 1..WORDS {
            let before = state[index - 1];
            state[index] = (before ^ (before >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(index as u32);
        }
        Self { state, next: WORDS }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
        }
        let mut value = self.state[self.next];
        self.next += 1;
        value ^= value >> 11;
        value ^= (value << 7) & 0x9d2c_5680;
        value ^= (value << 15) & 0xefc6_0000;
        value ^ (value >> 18)
    }

    fn twist(&mut self) {
        for index in 0..WORDS {
            let mixed =
                (self.state[index] & 0x8000_0000) | (self.state[(index + 1) % WORDS] & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[index] = self.state[(index + SHIFT) % WORDS] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The reference implementation's first and 10,000th output of its default seed.
    #[test]
    fn equals_the_published_generator() {
        let mut generator = Mt19937::new(5489);
        assert_eq!(generator.next_u32(), 3_499_211_612);
        assert_eq!(
            (0..9_999).map(|_| generator.next_u32()).last(),
            Some(4_123_659_995)
        );
    }

    #[test]
    fn is_a_permutation() {
        for count in [0, 1, 2, 1000] {
            let mut order = randperm(7, count);
            order.sort_unstable();
            assert_eq!(order, (0..count).collect::<Vec<_>>());
        }
    }
}
