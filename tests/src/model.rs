//! The reference model: a database as maps in memory. Copies share what they have in common, so that a test can keep
//! the state after every change of a long history.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// A key or a value.
pub type Bytes = Arc<[u8]>;

/// The entries of one keyspace.
pub type Map = BTreeMap<Bytes, Bytes>;

/// The bounds of a range of keys.
pub type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The keyspace that every database has.
pub const DEFAULT: &str = "default";

/// One operation of a batch: a put, or a delete if there is no value.
#[derive(Debug, Clone)]
pub struct Write {
    /// The keyspace's name.
    pub keyspace: String,
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Option<Bytes>,
}

/// Something that happens to a database at once or not at all.
#[derive(Debug, Clone)]
pub enum Change {
    /// Operations, in order.
    Batch(Vec<Write>),
    /// A keyspace is created.
    Create(String),
    /// A keyspace is dropped.
    Drop(String),
    /// Everything in a keyspace is removed.
    Clear(String),
}

/// A database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    keyspaces: BTreeMap<String, Arc<Map>>,
}

impl Default for Model {
    fn default() -> Self {
        Model { keyspaces: BTreeMap::from([(DEFAULT.to_owned(), Arc::default())]) }
    }
}

impl Model {
    /// From keyspaces by name.
    pub fn from_keyspaces(keyspaces: impl IntoIterator<Item = (String, Map)>) -> Self {
        Model { keyspaces: keyspaces.into_iter().map(|(name, map)| (name, Arc::new(map))).collect() }
    }

    /// Makes a change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Batch(writes) => writes.iter().for_each(|write| {
                let map = self.keyspaces.get_mut(&write.keyspace).expect("writes go to keyspaces that exist");
                let map = Arc::make_mut(map);
                match &write.value {
                    Some(value) => map.insert(write.key.clone(), value.clone()),
                    None => map.remove(&write.key),
                };
            }),
            Change::Create(name) => drop(self.keyspaces.entry(name.clone()).or_default()),
            Change::Drop(name) => drop(self.keyspaces.remove(name)),
            Change::Clear(name) => drop(self.keyspaces.insert(name.clone(), Arc::default())),
        }
    }

    /// The entries of a keyspace that exists.
    pub fn map(&self, keyspace: &str) -> &Arc<Map> {
        &self.keyspaces[keyspace]
    }

    /// The keyspaces by name.
    pub fn keyspaces(&self) -> &BTreeMap<String, Arc<Map>> {
        &self.keyspaces
    }

    /// In what two databases differ, in a few words; nothing if they are equal.
    pub fn difference(&self, other: &Model) -> Option<String> {
        let names = |model: &Model| model.keyspaces.keys().cloned().collect::<Vec<_>>();
        if names(self) != names(other) {
            return Some(format!("keyspaces {:?} against {:?}", names(self), names(other)));
        }
        self.keyspaces.iter().find_map(|(name, map)| {
            let differs = first_difference(map, &other.keyspaces[name])?;
            Some(format!(
                "keyspace {name:?}, {} against {} entries, {differs}",
                map.len(),
                other.map(name).len()
            ))
        })
    }
}

/// The first key on which two maps differ.
fn first_difference(left: &Map, right: &Map) -> Option<String> {
    let of = |map: &Map, key: &Bytes| map.get(key).map_or("nothing".to_owned(), |value| abbreviated(value));
    let mut keys = left.keys().chain(right.keys());
    let differing = keys.find(|key| left.get(*key) != right.get(*key))?;
    Some(format!(
        "at key {}: {} against {}",
        abbreviated(differing),
        of(left, differing),
        of(right, differing)
    ))
}

/// Bytes, so that a person can tell which are meant.
pub fn abbreviated(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=40 => format!("\"{}\"", bytes.escape_ascii()),
        len => format!("\"{}\"... ({len} bytes)", bytes[..32].escape_ascii()),
    }
}

/// The entries of a map with keys in a range, which must not be reversed.
pub fn entries_in(map: &Map, bounds: Bounds<'_>) -> Vec<(Bytes, Bytes)> {
    // The standard library's map panics at an empty range of this kind.
    if let (Bound::Excluded(from), Bound::Excluded(to)) = bounds
        && from == to
    {
        return Vec::new();
    }
    map.range::<[u8], _>(bounds).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The entries of a map with keys that begin with `prefix`.
pub fn entries_with_prefix(map: &Map, prefix: &[u8]) -> Vec<(Bytes, Bytes)> {
    let from = map.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
    let matching = from.take_while(|(key, _)| key.starts_with(prefix));
    matching.map(|(key, value)| (key.clone(), value.clone())).collect()
}
