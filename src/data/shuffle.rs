//! numpy's `default_rng(seed).permutation(n)`, bit for bit: the order in which Hugging Face
//! `datasets.shuffle(seed)` hands out rows, so that a draw names the same questions as the authors'.

/// `numpy.random.default_rng(entropy).permutation(count)`; `entropy` is what numpy takes as an
/// integer (one element) or as a list of integers (several).
pub(crate) fn permutation(entropy: &[u64], count: usize) -> Vec<usize> {
    let mut generator = Pcg64::new(entropy);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, generator.below_or_equal(last as u64) as usize);
    }
    order
}

const POOL_SIZE: usize = 4;
const XSHIFT: u32 = 16;

/// numpy's `SeedSequence`: entropy words spread over a pool of four 32-bit words.
struct SeedSequence {
    pool: [u32; POOL_SIZE],
}

impl SeedSequence {
    fn new(entropy: &[u64]) -> Self {
        let words: Vec<u32> = entropy.iter().flat_map(|value| words_of(*value)).collect();
        let mut hash_constant: u32 = 0x43b0_d7e5;
        let mut hash = |value: u32| {
            let mixed = value ^ hash_constant;
            hash_constant = hash_constant.wrapping_mul(0x931e_8875);
            let mixed = mixed.wrapping_mul(hash_constant);
            mixed ^ (mixed >> XSHIFT)
        };
        let mut pool = [0u32; POOL_SIZE];
        for (index, slot) in pool.iter_mut().enumerate() {
            *slot = hash(words.get(index).copied().unwrap_or(0));
        }
        for source in 0..POOL_SIZE {
            for target in 0..POOL_SIZE {
                if source != target {
                    pool[target] = mix(pool[target], hash(pool[source]));
                }
            }
        }
        for word in words.iter().skip(POOL_SIZE) {
            for slot in &mut pool {
                *slot = mix(*slot, hash(*word));
            }
        }
        Self { pool }
    }

    /// `generate_state(4, uint64)`.
    fn state(&self) -> [u64; 4] {
        let mut hash_constant: u32 = 0x8b51_f9dd;
        let mut words = [0u64; 8];
        for (index, word) in words.iter_mut().enumerate() {
            let value = self.pool[index % POOL_SIZE] ^ hash_constant;
            hash_constant = hash_constant.wrapping_mul(0x58f3_8ded);
            let value = value.wrapping_mul(hash_constant);
            *word = u64::from(value ^ (value >> XSHIFT));
        }
        std::array::from_fn(|index| words[2 * index] | (words[2 * index + 1] << 32))
    }
}

/// The 32-bit words of one integer, low word first; zero is one word.
fn words_of(value: u64) -> Vec<u32> {
    if value >> 32 == 0 {
        vec![value as u32]
    } else {
        vec![value as u32, (value >> 32) as u32]
    }
}

fn mix(left: u32, right: u32) -> u32 {
    let value = left
        .wrapping_mul(0xca01_f9dd)
        .wrapping_sub(right.wrapping_mul(0x4973_f715));
    value ^ (value >> XSHIFT)
}

/// numpy's PCG64 (XSL-RR 128/64) with its buffered 32-bit output.
struct Pcg64 {
    state: u128,
    increment: u128,
    buffered: Option<u32>,
}

impl Pcg64 {
    const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

    fn new(entropy: &[u64]) -> Self {
        let words = SeedSequence::new(entropy).state();
        let join = |high: u64, low: u64| (u128::from(high) << 64) | u128::from(low);
        let mut generator = Self {
            state: 0,
            increment: (join(words[2], words[3]) << 1) | 1,
            buffered: None,
        };
        generator.step();
        generator.state = generator.state.wrapping_add(join(words[0], words[1]));
        generator.step();
        generator
    }

    fn step(&mut self) {
        self.state = self
            .state
            .wrapping_mul(Self::MULTIPLIER)
            .wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = ((self.state >> 64) as u64) ^ (self.state as u64);
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn next_u32(&mut self) -> u32 {
        if let Some(value) = self.buffered.take() {
            return value;
        }
        let value = self.next_u64();
        self.buffered = Some((value >> 32) as u32);
        value as u32
    }

    /// Uniform in `0..=limit` by masking and rejection, 32 bits wide where the limit allows
    /// (numpy's `random_interval`, which its shuffles use).
    fn below_or_equal(&mut self, limit: u64) -> u64 {
        let mask = u64::MAX.checked_shr(limit.leading_zeros()).unwrap_or(0);
        loop {
            let value = if u32::try_from(limit).is_ok() {
                u64::from(self.next_u32())
            } else {
                self.next_u64()
            } & mask;
            if value <= limit {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // numpy.random.default_rng(seed).permutation(n), numpy 2.4.6
    #[test]
    fn equals_numpy() {
        assert_eq!(
            permutation(&[42], 12),
            [0, 7, 6, 9, 11, 3, 5, 2, 4, 10, 1, 8]
        );
        assert_eq!(permutation(&[0], 9), [4, 5, 2, 6, 3, 8, 7, 0, 1]);
        assert_eq!(
            permutation(&[1_099_511_627_781], 10),
            [8, 1, 2, 5, 3, 0, 9, 7, 4, 6]
        );
        assert_eq!(
            permutation(&[42, 3], 11),
            [5, 4, 3, 8, 2, 7, 1, 10, 9, 0, 6]
        );
        assert_eq!(permutation(&[1, 2, 3, 4, 5], 8), [7, 5, 2, 4, 6, 1, 0, 3]);
        assert_eq!(
            permutation(&[42], 18_473)[..8],
            [6742, 10730, 12625, 4879, 14434, 8507, 14116, 16445]
        );
        let digest = permutation(&[42], 18_473)
            .into_iter()
            .fold(0u64, |digest, row| {
                digest.wrapping_mul(31).wrapping_add(row as u64)
            });
        assert_eq!(digest, 17_341_026_694_580_019_316);
    }

    #[test]
    fn is_a_permutation() {
        for count in [0, 1, 2, 1000] {
            let mut order = permutation(&[7], count);
            order.sort_unstable();
            assert_eq!(order, (0..count).collect::<Vec<_>>());
        }
    }
}
