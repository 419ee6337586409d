//! Which record an operation asks for: YCSB's request distributions.

use clap::ValueEnum;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::Random;
use super::zipfian::{ScrambledZipfian, THETA, Zipfian};

/// YCSB's default share of the records that are hot, in the hotspot distribution.
const HOT_SET_FRACTION: f64 = 0.2;
/// YCSB's default share of the operations that ask for a hot record.
const HOT_OPERATION_FRACTION: f64 = 0.8;

/// The shape of the popularity of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Every record is as popular as any other.
    Uniform,
    /// Few records are very popular, and they are scattered over the key space.
    Zipfian,
    /// The records inserted last are the most popular.
    Latest,
    /// 80 % of the operations ask for the first 20 % of the records.
    Hotspot,
}

/// Draws the numbers of records.
#[derive(Debug, Clone)]
pub enum KeyChooser {
    /// [`Distribution::Uniform`] over this many records.
    Uniform(u64),
    /// [`Distribution::Zipfian`].
    Zipfian(ScrambledZipfian),
    /// [`Distribution::Latest`]: a rank is how many records ago one was inserted.
    Latest(Zipfian),
    /// [`Distribution::Hotspot`].
    Hotspot {
        /// The first this many records are hot.
        hot: u64,
        /// The number of records, at least one.
        records: u64,
    },
}

impl KeyChooser {
    /// For `records` records, of which there will be about `new_records` more before the phase is over.
    ///
    /// The zipfian distribution is laid over all of them at once, so that inserts do not change who is popular.
    pub fn new(distribution: Distribution, records: u64, new_records: u64) -> Self {
        let records = records.max(1);
        match distribution {
            Distribution::Uniform => KeyChooser::Uniform(records),
            Distribution::Zipfian => {
                KeyChooser::Zipfian(ScrambledZipfian::new(records.saturating_add(new_records)))
            }
            Distribution::Latest => KeyChooser::Latest(Zipfian::new(records, THETA)),
            Distribution::Hotspot => {
                KeyChooser::Hotspot { hot: (records as f64 * HOT_SET_FRACTION) as u64, records }
            }
        }
    }

    /// Draws the number of a record that exists: one below `present`, which never falls and is at least 1.
    pub fn draw(&mut self, present: u64, random: &mut Random) -> u64 {
        loop {
            let number = match self {
                KeyChooser::Uniform(records) => random.random_range(0..*records),
                KeyChooser::Zipfian(scrambled) => scrambled.draw(random),
                KeyChooser::Latest(ranks) => {
                    ranks.grow_to(present);
                    (present - 1).saturating_sub(ranks.draw(random))
                }
                KeyChooser::Hotspot { hot, records } => {
                    let wants_hot = random.random::<f64>() < HOT_OPERATION_FRACTION;
                    if wants_hot && *hot > 0 {
                        random.random_range(0..*hot)
                    } else {
                        random.random_range(*hot..*records)
                    }
                }
            };
            if number < present {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn draw_many(distribution: Distribution, records: u64, present: u64, draws: u32) -> Vec<u32> {
        let mut chooser = KeyChooser::new(distribution, records, present - records);
        let mut random = Random::seed_from_u64(3);
        let mut counts = vec![0; present as usize];
        for _ in 0..draws {
            counts[chooser.draw(present, &mut random) as usize] += 1;
        }
        counts
    }

    #[test]
    fn uniform_is_even() {
        let counts = draw_many(Distribution::Uniform, 100, 100, 1_000_000);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn hotspot_is_eighty_to_twenty() {
        let counts = draw_many(Distribution::Hotspot, 1000, 1000, 1_000_000);
        let hot: u32 = counts[..200].iter().sum();
        assert!((795_000..805_000).contains(&hot), "{hot}");
        assert!(counts[..200].iter().all(|count| (3_600..4_400).contains(count)));
        assert!(counts[200..].iter().all(|count| (170..340).contains(count)));
    }

    #[test]
    fn latest_favours_what_came_last() {
        let counts = draw_many(Distribution::Latest, 1000, 2000, 1_000_000);
        let top = (0..counts.len()).max_by_key(|&number| counts[number]).unwrap();
        assert_eq!(top, 1999);
        let newest: u32 = counts[1900..].iter().sum();
        assert!((500_000..750_000).contains(&newest), "{newest}");
    }

    #[test]
    fn the_popular_stay_popular_when_records_come_in() {
        let mut chooser = KeyChooser::new(Distribution::Zipfian, 1000, 1000);
        let top = |chooser: &mut KeyChooser, present: u64| {
            let mut random = Random::seed_from_u64(4);
            let mut counts = vec![0; 2000];
            for _ in 0..200_000 {
                counts[chooser.draw(present, &mut random) as usize] += 1;
            }
            let mut ranked: Vec<usize> = (0..1000).collect();
            ranked.sort_by_key(|&number| std::cmp::Reverse(counts[number]));
            ranked.truncate(3);
            ranked
        };
        assert_eq!(top(&mut chooser, 1000), top(&mut chooser, 2000));
    }

    #[test]
    fn one_record_is_enough_for_each_distribution() {
        for distribution in Distribution::value_variants() {
            assert_eq!(draw_many(*distribution, 1, 1, 1000), [1000], "{distribution:?}");
        }
    }
}
