//! The generator of random work: keys that meet each other often, values of awkward lengths, ranges, batches. Equal
//! seeds give equal work.

use std::ops::{Bound, Range};
use std::sync::Arc;

use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::model::{Bounds, Bytes, Write};

/// The longest key that there may be.
pub const KEY_BYTES_MAX: usize = 64 << 10;

/// Owned bounds of a range of keys.
pub type OwnedBounds = (Bound<Bytes>, Bound<Bytes>);

/// Bounds, borrowed.
pub fn borrowed(bounds: &OwnedBounds) -> Bounds<'_> {
    (bounds.0.as_ref().map(|key| &**key), bounds.1.as_ref().map(|key| &**key))
}

/// How long values are.
#[derive(Debug, Clone)]
pub struct ValueLengths {
    /// The length of most values.
    pub usual: Range<usize>,
    /// One value in so many is around or across pages: 3,900 to 20,000 bytes.
    pub paged_one_in: u32,
    /// One value in so many is of this length.
    pub large: (u32, Range<usize>),
}

/// A value as data: what it takes to make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    /// Its length in bytes.
    pub len: usize,
    /// What it begins with, as far as there is room: no two values of a generator have the same number.
    pub number: u64,
    /// What the rest is drawn from; none for one that compresses.
    pub noise: Option<u64>,
}

impl Value {
    /// The value.
    pub fn bytes(&self) -> Bytes {
        let mut value = vec![b'v'; self.len];
        let number = self.number.to_be_bytes();
        let shown = number.len().min(self.len);
        value[..shown].copy_from_slice(&number[8 - shown..]);
        if let Some(seed) = self.noise {
            value[shown..].copy_from_slice(&noise(seed, self.len - shown));
        }
        value.into()
    }
}

/// Bytes that do not compress, and that come by nowhere else: other seeds give others.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Xoshiro256PlusPlus::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Makes random work.
#[derive(Debug)]
pub struct Generator {
    rng: Xoshiro256PlusPlus,
    keys: Vec<Bytes>,
    values: ValueLengths,
    /// Values made so far.
    made: u64,
}

impl Generator {
    /// With a pool of `keys` keys; `long` ones among them have up to 64 KiB.
    pub fn new(seed: u64, keys: usize, long: usize, values: ValueLengths) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut pool: Vec<Bytes> =
            vec![Bytes::from(&b""[..]), Bytes::from(&[0][..]), Bytes::from(&[0xff; 9][..])];
        while pool.len() < keys {
            pool.push(short_key(&mut rng));
        }
        for index in 0..long {
            let len = if index == 0 { KEY_BYTES_MAX } else { rng.random_range(2_000..=KEY_BYTES_MAX) };
            // They differ in their last bytes only: nothing may be decided by a prefix.
            let mut key = vec![b'k'; len];
            key[len - 8..].copy_from_slice(&rng.next_u64().to_be_bytes());
            pool.push(key.into());
        }
        Generator { rng, keys: pool, values, made: 0 }
    }

    /// For choices alone: it has hardly a key, and empty values.
    pub fn of_choices(seed: u64) -> Self {
        Generator::new(
            seed,
            0,
            0,
            ValueLengths { usual: 0..1, paged_one_in: u32::MAX, large: (u32::MAX, 0..1) },
        )
    }

    /// A number of a range.
    pub fn number(&mut self, range: Range<usize>) -> usize {
        self.rng.random_range(range)
    }

    /// Yes, once in so many times.
    pub fn one_in(&mut self, times: u32) -> bool {
        self.rng.random_ratio(1, times)
    }

    /// One of some things.
    pub fn pick<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.rng.random_range(0..things.len())]
    }

    /// One of some things, each as likely as its weight says.
    pub fn weighted<T: Copy>(&mut self, things: &[(u32, T)]) -> T {
        let mut left = self.rng.random_range(0..things.iter().map(|(weight, _)| weight).sum());
        for &(weight, thing) in things {
            if left < weight {
                return thing;
            }
            left -= weight;
        }
        unreachable!("the number is below the sum of the weights")
    }

    /// A key of the pool.
    pub fn key(&mut self) -> Bytes {
        let index = self.rng.random_range(0..self.keys.len());
        self.keys[index].clone()
    }

    /// Every key that is ever written.
    pub fn keys(&self) -> &[Bytes] {
        &self.keys
    }

    /// A key of the pool, or one right beside it that is never written.
    pub fn probe(&mut self) -> Bytes {
        let key = self.key();
        match self.rng.random_range(0..6) {
            0 if key.len() < KEY_BYTES_MAX => [&key, &[0][..]].concat().into(),
            1 if !key.is_empty() => key[..key.len() - 1].into(),
            2 => short_key(&mut self.rng),
            _ => key,
        }
    }

    /// A value unlike those before.
    pub fn value(&mut self) -> Bytes {
        self.value_as_data().bytes()
    }

    /// A value unlike those before, not made yet.
    pub fn value_as_data(&mut self) -> Value {
        self.made += 1;
        let (large_one_in, large) = self.values.large.clone();
        let len = if self.one_in(large_one_in) {
            self.rng.random_range(large)
        } else if self.one_in(self.values.paged_one_in) {
            *self.pick(&[3_900, 4_000, 4_078, 4_079, 4_080, 4_096, 8_192, 12_000, 20_000])
        } else if self.one_in(20) {
            0
        } else {
            self.rng.random_range(self.values.usual.clone())
        };
        // Half of them do not compress.
        let noise = self.one_in(2).then(|| self.rng.next_u64());
        Value { len, number: self.made, noise }
    }

    /// A batch across some keyspaces.
    pub fn batch(&mut self, keyspaces: &[String], operations: Range<usize>) -> Vec<Write> {
        let count = self.number(operations);
        let write = |_| Write {
            keyspace: self.pick(keyspaces).clone(),
            key: self.key(),
            value: if self.one_in(4) { None } else { Some(self.value()) },
        };
        (0..count).map(write).collect()
    }

    /// A range that is not reversed.
    pub fn bounds(&mut self) -> OwnedBounds {
        let (a, b) = (self.probe(), self.probe());
        let (from, to) = if a <= b { (a, b) } else { (b, a) };
        let from = match self.rng.random_range(0..5) {
            0 => Bound::Unbounded,
            1 => Bound::Excluded(from),
            _ => Bound::Included(from),
        };
        let to = match self.rng.random_range(0..5) {
            0 => Bound::Unbounded,
            1 => Bound::Included(to),
            _ => Bound::Excluded(to),
        };
        (from, to)
    }

    /// A prefix that some keys have.
    pub fn prefix(&mut self) -> Bytes {
        let key = self.key();
        let len = self.rng.random_range(0..=key.len().min(12));
        key[..len].into()
    }

    /// A number that decides what a crash takes.
    pub fn seed(&mut self) -> u64 {
        self.rng.next_u64()
    }
}

/// Keys that share prefixes with each other, some of them long; with bytes of 0 and 255.
fn short_key(rng: &mut Xoshiro256PlusPlus) -> Bytes {
    let number: u32 = rng.random_range(0..100_000);
    let key = match rng.random_range(0..6) {
        0 => number.to_be_bytes().to_vec(),
        1 => format!("user{number:08}").into_bytes(),
        2 => format!("a long prefix that many keys have, longer than any fence needs/{number}").into_bytes(),
        3 => vec![0xff; number as usize % 7],
        4 => vec![0; number as usize % 7],
        _ => {
            let mut key = vec![0; number as usize % 40];
            rng.fill_bytes(&mut key);
            key
        }
    };
    Arc::from(key)
}
