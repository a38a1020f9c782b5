//! Randomness of the simulator: everything from one 64-bit seed.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A generator whose numbers are the same on every machine and with every version of the libraries.
#[derive(Clone, Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }
    /// A generator of its own for one part of the simulation, so that what one part draws does not change
    /// what another sees.
    pub fn fork(&mut self) -> Self {
        Self::new(self.0.random())
    }
    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0.random()
    }
    /// True with this probability. Draws nothing for 0 and 1.
    #[inline]
    pub fn chance(&mut self, probability: f64) -> bool {
        if probability <= 0.0 {
            false
        } else if probability >= 1.0 {
            true
        } else {
            self.0.random::<f64>() < probability
        }
    }
    /// A number of `from..=to` (`from` where `to` is less).
    #[inline]
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        if to <= from { from } else { self.0.random_range(from..=to) }
    }
    /// A number of `from..=to`, each order of magnitude as likely as another.
    pub fn between_log(&mut self, from: u64, to: u64) -> u64 {
        if to <= from {
            return from;
        }
        let (low, high) = ((from.max(1) as f64).ln(), (to.max(1) as f64).ln());
        ((low + (high - low) * self.0.random::<f64>()).exp() as u64).clamp(from, to)
    }
    /// One of several.
    ///
    /// # Panics
    /// When there are none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.0.random_range(0..choices.len())]
    }
    /// 32 octets, for the seed of an engine.
    pub fn seed(&mut self) -> [u8; 32] {
        self.0.random()
    }
}
