//! Ranges of keys as they are asked for on the command line: from, to, prefix.

use std::ffi::{OsStr, OsString};
use std::ops::Bound;

use crate::notation::Notation;
use crate::tool::{Failure, Result, argument_bytes};

/// Lower and upper bound of a range of keys.
pub type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The bytes of an argument in its notation; `what` names it in the message.
pub fn bytes_of(what: &str, argument: &OsStr, notation: Notation) -> Result<Vec<u8>> {
    notation
        .read(argument_bytes(argument))
        .map_err(|error| Failure::error(format!("{what} {:?} has {error}", argument.to_string_lossy())))
}

/// The bounds `--from` (included) and `--to` (excluded). A reversed range is refused.
pub fn bounds(from: &Option<OsString>, to: &Option<OsString>, notation: Notation) -> Result<Bounds> {
    let read = |what: &str, argument: &Option<OsString>| {
        argument.as_deref().map(|argument| bytes_of(what, argument, notation)).transpose()
    };
    let (from_key, to_key) = (read("--from", from)?, read("--to", to)?);
    if let (Some(from_key), Some(to_key)) = (&from_key, &to_key)
        && from_key > to_key
    {
        let show = |argument: &Option<OsString>| {
            argument.as_deref().unwrap_or_default().to_string_lossy().into_owned()
        };
        return Err(Failure::error(format!(
            "the range is reversed: --from {:?} is above --to {:?}",
            show(from),
            show(to)
        )));
    }
    let from = from_key.map_or(Bound::Unbounded, Bound::Included);
    let to = to_key.map_or(Bound::Unbounded, Bound::Excluded);
    Ok((from, to))
}

/// The keys that begin with `prefix` and lie within the bounds; nothing if there can be none.
pub fn narrow(bounds: Bounds, prefix: &[u8]) -> Option<Bounds> {
    let (from, to) = bounds;
    let from = match from {
        Bound::Included(key) if key.as_slice() > prefix => Bound::Included(key),
        _ => Bound::Included(prefix.to_vec()),
    };
    let to = match (to, successor(prefix)) {
        (Bound::Excluded(key), Some(end)) => Bound::Excluded(key.min(end)),
        (Bound::Unbounded, Some(end)) => Bound::Excluded(end),
        (to, None) => to,
        (to @ Bound::Included(_), Some(_)) => to,
    };
    match (&from, &to) {
        (Bound::Included(from), Bound::Excluded(to)) if from >= to => None,
        _ => Some((from, to)),
    }
}

/// The first key behind all those that begin with `prefix`, if there is one.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::RangeBounds;

    #[test]
    fn a_prefix_narrows_any_range() {
        let keys: Vec<Vec<u8>> = [
            &b""[..],
            b"a",
            b"a\xff",
            b"a\xff\x00",
            b"a\xff\xff",
            b"a\xff\xff\x01",
            b"b",
            b"b\x00",
            b"\xff",
            b"\xff\xff",
            b"\xff\xff\xff",
        ]
        .map(<[u8]>::to_vec)
        .to_vec();
        for prefix in &keys {
            for from in keys.iter().map(Some).chain([None]) {
                for to in keys.iter().map(Some).chain([None]) {
                    let whole = (
                        from.cloned().map_or(Bound::Unbounded, Bound::Included),
                        to.cloned().map_or(Bound::Unbounded, Bound::Excluded),
                    );
                    let narrowed = narrow(whole.clone(), prefix);
                    for key in &keys {
                        let expected = key.starts_with(prefix) && whole.contains(key);
                        let found = narrowed.as_ref().is_some_and(|narrowed| narrowed.contains(key));
                        assert_eq!(found, expected, "{prefix:x?} {whole:x?} {key:x?}");
                    }
                }
            }
        }
    }
}
