//! A workload driver after YCSB, the Yahoo! Cloud Serving Benchmark.
//!
//! What makes a figure comparable with others' is kept exactly: the core workloads A–F ([`workload`]), the request
//! distributions ([`zipfian`], [`choose`]), hashed insert order, and latencies that count from the time an operation
//! was meant to start when a target rate is set ([`driver`]). Keys are 16 bytes ([`record`]).
//!
//! [`driver`] runs a phase of operations against any [`Store`]; [`session`] runs phases against a Terrace database
//! and notes what the engine did meanwhile; [`report`] prints it.

pub mod choose;
pub mod description;
pub mod driver;
pub mod latency;
pub mod record;
pub mod report;
pub mod sequence;
pub mod session;
pub mod store;
pub mod workload;
pub mod zipfian;

pub use choose::{Distribution, KeyChooser};
pub use description::Description;
pub use record::{InsertOrder, RecordShape};
pub use session::{Session, Settings};
pub use store::Store;
pub use workload::Workload;

/// The pseudo-random generator of a worker: seeded, so that a run can be repeated.
pub type Random = rand_xoshiro::Xoshiro256PlusPlus;

/// YCSB's 64-bit FNV-1a hash of a number's eight bytes, low byte first, made positive the way Java does.
///
/// ```
/// // The first key of every YCSB data set is "user6284781860667377211".
/// assert_eq!(terrace_tools::ycsb::fnv_hash(0), 6_284_781_860_667_377_211);
/// ```
pub fn fnv_hash(value: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in value.to_le_bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(1_099_511_628_211);
    }
    (hash as i64).unsigned_abs()
}

#[cfg(test)]
mod tests {
    #[test]
    fn hashes_are_those_of_ycsb() {
        let known = [
            6_284_781_860_667_377_211,
            8_517_097_267_634_966_620,
            1_820_151_046_732_198_393,
            4_052_466_453_699_787_802,
        ];
        assert_eq!([0, 1, 2, 3].map(super::fnv_hash), known);
        assert_eq!(super::fnv_hash(123_456_789), 2_350_796_791_908_741_607);
    }
}
