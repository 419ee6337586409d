//! YCSB's core workloads: what share of the operations is which.

use clap::ValueEnum;
use rand::RngExt;
use serde::Serialize;

use super::{Distribution, Random};

/// The longest scan of workload E; lengths are uniform from 1.
pub const SCAN_LENGTH_MAX: u64 = 100;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// Reads all fields of a record.
    Read,
    /// Writes one field of a record, or all.
    Update,
    /// Writes a new record.
    Insert,
    /// Reads some records in a row.
    Scan,
    /// Reads a record, then updates it.
    ReadModifyWrite,
}

impl OperationKind {
    /// All of them.
    pub const ALL: [OperationKind; 5] = [
        OperationKind::Read,
        OperationKind::Update,
        OperationKind::Insert,
        OperationKind::Scan,
        OperationKind::ReadModifyWrite,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            OperationKind::Read => "read",
            OperationKind::Update => "update",
            OperationKind::Insert => "insert",
            OperationKind::Scan => "scan",
            OperationKind::ReadModifyWrite => "read-modify-write",
        }
    }
}

/// A core workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Workload {
    /// Update heavy: 50 % reads, 50 % updates; zipfian.
    #[value(alias = "A")]
    A,
    /// Read mostly: 95 % reads, 5 % updates; zipfian.
    #[value(alias = "B")]
    B,
    /// Read only: 100 % reads; zipfian.
    #[value(alias = "C")]
    C,
    /// Read latest: 95 % reads, 5 % inserts; latest.
    #[value(alias = "D")]
    D,
    /// Short ranges: 95 % scans of 1 to 100 records, 5 % inserts; zipfian.
    #[value(alias = "E")]
    E,
    /// Read-modify-write: 50 % reads, 50 % read-modify-writes; zipfian.
    #[value(alias = "F")]
    F,
}

impl Workload {
    /// All of them, in the order that YCSB recommends: those that insert come last.
    pub const IN_ORDER: [Workload; 6] =
        [Workload::A, Workload::B, Workload::C, Workload::F, Workload::D, Workload::E];

    /// Its letter.
    pub fn letter(self) -> char {
        match self {
            Workload::A => 'A',
            Workload::B => 'B',
            Workload::C => 'C',
            Workload::D => 'D',
            Workload::E => 'E',
            Workload::F => 'F',
        }
    }

    /// The operations, each with its share in percent; together 100.
    pub fn mix(self) -> &'static [(OperationKind, u32)] {
        use OperationKind::{Insert, Read, ReadModifyWrite, Scan, Update};
        match self {
            Workload::A => &[(Read, 50), (Update, 50)],
            Workload::B => &[(Read, 95), (Update, 5)],
            Workload::C => &[(Read, 100)],
            Workload::D => &[(Read, 95), (Insert, 5)],
            Workload::E => &[(Scan, 95), (Insert, 5)],
            Workload::F => &[(Read, 50), (ReadModifyWrite, 50)],
        }
    }

    /// The request distribution that it is defined with.
    pub fn distribution(self) -> Distribution {
        match self {
            Workload::D => Distribution::Latest,
            _ => Distribution::Zipfian,
        }
    }

    /// How many records `operations` of it insert, about.
    pub fn expected_inserts(self, operations: u64) -> u64 {
        let percent = self.share(OperationKind::Insert);
        (u128::from(operations) * u128::from(percent) / 100) as u64
    }

    /// Draws what to do next.
    pub fn draw(self, random: &mut Random) -> OperationKind {
        let mut drawn = random.random_range(0..100);
        for &(operation, percent) in self.mix() {
            if drawn < percent {
                return operation;
            }
            drawn -= percent;
        }
        unreachable!("the shares of a workload add up to 100")
    }

    /// For example `50 % read, 50 % update`.
    pub fn describe(self) -> String {
        let parts: Vec<String> = self
            .mix()
            .iter()
            .map(|(operation, percent)| format!("{percent} % {}", operation.name()))
            .collect();
        parts.join(", ")
    }

    fn share(self, wanted: OperationKind) -> u32 {
        self.mix().iter().filter(|(operation, _)| *operation == wanted).map(|(_, percent)| percent).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn operations_come_in_their_shares() {
        for workload in Workload::value_variants() {
            assert_eq!(workload.mix().iter().map(|(_, percent)| percent).sum::<u32>(), 100);
            let mut random = Random::seed_from_u64(5);
            let draws = 200_000;
            let mut counts = [0_u32; 5];
            for _ in 0..draws {
                counts[workload.draw(&mut random) as usize] += 1;
            }
            for operation in OperationKind::ALL {
                let percent = f64::from(counts[operation as usize]) * 100.0 / f64::from(draws);
                let expected = f64::from(workload.share(operation));
                assert!((percent - expected).abs() < 0.5, "{workload:?} {operation:?}: {percent}");
            }
        }
    }

    #[test]
    fn the_order_names_each_once_and_inserts_last() {
        let inserts: Vec<bool> =
            Workload::IN_ORDER.iter().map(|workload| workload.expected_inserts(100) > 0).collect();
        assert_eq!(inserts, [false, false, false, false, true, true]);
        let letters: std::collections::BTreeSet<char> =
            Workload::IN_ORDER.iter().map(|workload| workload.letter()).collect();
        assert_eq!(letters.len(), 6);
    }
}
