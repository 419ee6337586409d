//! Forged manifests (`docs/format.md` §4): the edits in their records.

use rand::RngExt;

use super::{Field, Fields, change_bytes, change_field, odd_number, put_varint};
use crate::samples::Random;

/// An edit, taken apart: tags and bodies.
type Edit = Vec<(u8, Vec<u8>)>;

/// Takes an edit apart. `None` if it is not sound.
fn read(payload: &[u8]) -> Option<Edit> {
    let mut fields = Fields::new(payload, 0);
    let mut edit = Vec::new();
    while fields.at() < payload.len() {
        let tag = fields.fixed(1)? as u8;
        edit.push((tag, fields.prefixed()?.to_vec()));
    }
    Some(edit)
}

/// Changes the payload of an edit: a field of the body of one of its changes, mostly.
pub fn change_edit(random: &mut Random, payload: &mut Vec<u8>) {
    let Some(mut edit) = read(payload).filter(|edit| !edit.is_empty()) else {
        change_bytes(random, payload);
        return;
    };
    let index = random.random_range(0..edit.len());
    let mut lie = None;
    match random.random_range(0..16) {
        0 => drop(edit.remove(index)),
        1 => {
            let other = random.random_range(0..edit.len());
            edit.swap(index, other);
        }
        2 => {
            let copy = edit[index].clone();
            edit.insert(index, copy);
        }
        3 => edit[index].0 = odd_number(random, edit[index].0.into(), 13) as u8,
        4 => change_bytes(random, &mut edit[index].1),
        5 => lie = Some(odd_number(random, edit[index].1.len() as u64, payload.len())),
        // One that the engine may not have written.
        6 => {
            let tag = random.random_range(1..13);
            let body = (0..random.random_range(0..4)).fold(Vec::new(), |mut body, _| {
                put_varint(&mut body, odd_number(random, 3, 100));
                body
            });
            edit.insert(index, (tag, body));
        }
        _ => {
            let (tag, body) = &mut edit[index];
            let fields = body_fields(*tag, body);
            change_field(random, body, &fields);
        }
    }
    payload.clear();
    for (number, (tag, body)) in edit.iter().enumerate() {
        payload.push(*tag);
        let len = lie.filter(|_| number == index).unwrap_or(body.len() as u64);
        put_varint(payload, len);
        payload.extend_from_slice(body);
    }
    if payload.is_empty() {
        payload.push(0);
    }
}

/// The fields of the body of a change, up to one that is not there.
fn body_fields(tag: u8, body: &[u8]) -> Vec<Field> {
    let mut fields = Fields::new(body, 0);
    let _ = (|| {
        match tag {
            1 => {
                fields.bytes(16)?;
                fields.varint()?;
                fields.varint()?;
            }
            4 => {
                fields.varint()?;
                fields.prefixed()?;
                fields.fixed(1)?;
                fields.fixed(1)?;
                fields.varint()?;
                fields.varint()?;
            }
            6 => {
                fields.varint()?;
                fields.fixed(1)?;
                fields.varint()?;
                fields.fixed(8)?;
                for _ in 0..5 {
                    fields.varint()?;
                }
                fields.prefixed()?;
                fields.prefixed()?;
            }
            7 => {
                fields.varint()?;
                fields.fixed(1)?;
                fields.varint()?;
            }
            _ => while fields.varint().is_some() {},
        }
        Some(())
    })();
    fields.found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forge::log::Parts;
    use crate::samples;

    #[test]
    fn the_fields_of_every_change_are_known() {
        let sample = samples::manifest(1, false);
        let mut seen = [0; 13];
        for record in Parts::read(&sample.bytes("MANIFEST")).records {
            for (tag, body) in read(&record.payload).unwrap() {
                let fields = body_fields(tag, &body);
                assert_eq!(fields.last().map_or(0, |field| field.at.end), body.len(), "tag {tag}");
                seen[usize::from(tag)] += 1;
            }
        }
        assert!(seen[1] > 0 && seen[4] > 0 && seen[6] > 5 && seen[7] > 0, "{seen:?}");
    }
}
